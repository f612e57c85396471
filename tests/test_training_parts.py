"""The parts of a training, each against something slower or plainer."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import audioprune as ap
from audioprune.adapters import UnsupportedModelError, find_adapter
from audioprune.audio.features import LogMel
from audioprune.audio.files import load_audio
from audioprune.compare.evaluation import predict, score, spread
from audioprune.data import ClipRow, ClipTable, SoundCache
from audioprune.models.audiomae import AudioMAEConfig
from audioprune.models.pretraining import AudioMAEForPreTraining
from audioprune.training import augment, sweep
from audioprune.training.dataset import SpectrogramDataset
from audioprune.training.evaluation_table import cells, clips_of, summarize
from audioprune.training.losses import distillation_loss, label_loss
from audioprune.training.model import build_model
from audioprune.training.optim import factor, make_optimizer, make_scheduler, parameter_groups
from audioprune.training.precision import precision_of
from audioprune.training.recipe import Augment, Distill, LearningRate, Optimizer, Recipe, read_recipe
from audioprune.training.regularize import DropPath, PatchMask, kept_patches, set_drop_path
from audioprune.training.sweep import claim, folder_name, plan
from audioprune.training.task import Task, record_task
from audioprune.training.trainer import arguments, frozen_copy, last_checkpoint

from .conftest import tone
from .families import SHAPE, ast, audiomae

FRAMES = 64
LABELS = ("a", "b", "c")
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Augmentations.


@given(st.integers(1, 50), seeds)
def test_roll_turns_round(n: int, seed: int) -> None:
    waveform = np.arange(n, dtype=np.float32)
    rolled = augment.roll(waveform, drawn(seed))
    first = int(rolled[0])
    assert rolled.tolist() == [*range(first, n), *range(first)]
    assert waveform.tolist() == list(range(n))


def test_roll_reaches_every_place() -> None:
    generator = drawn()
    assert {int(augment.roll(np.arange(5), generator)[0]) for _ in range(200)} == set(range(5))


def test_gain_is_near_one() -> None:
    waveform, generator = np.array([1.0, -2.0, 0.5], dtype=np.float32), drawn()
    loud = [augment.gain(waveform, generator) for _ in range(500)]
    factors = np.array([g[0] for g in loud])
    assert all(g.dtype == np.float32 for g in loud)
    assert np.allclose([g / waveform for g in loud], factors[:, None])
    assert factors.min() > 0.5
    assert factors.max() < 1.5
    assert factors.mean() == pytest.approx(1.0, abs=0.02)
    assert factors.std() == pytest.approx(math.sqrt(10 * 10 / (20**2 * 21)), rel=0.1), "of Beta(10, 10)"


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), seeds)
def test_mix(n: int, m: int, share: float, seed: int) -> None:
    one, two = (drawn(seed + i).normal(2.0, 1.0, size).astype(np.float32) for i, size in enumerate((n, m)))
    kept = one.copy(), two.copy()
    mixed = augment.mix(one, two, share)
    assert (mixed.dtype, len(mixed)) == (np.float32, n)
    for i in range(n):
        other = two[i] - two.mean() if i < m else 0.0
        assert mixed[i] == pytest.approx(share * (one[i] - one.mean()) + (1 - share) * other, abs=1e-5)
    assert all(np.array_equal(now, before) for now, before in zip((one, two), kept))


def test_noise_is_of_a_bounded_level_and_rolls_a_little() -> None:
    generator, shifts, levels = drawn(), set(), []
    spectrogram = torch.arange(40.0)[:, None].expand(-1, 8).contiguous() * 10
    for _ in range(300):
        noisy = augment.noise(spectrogram, generator)
        shift = round(float(noisy[0, 0]) / 10)  # the frame that is now the first
        added = noisy - spectrogram.roll(-shift, 0)
        assert added.min() >= -1e-5
        assert added.max() < 0.1 + 1e-5
        shifts.add((shift + 20) % 40 - 20)
        levels.append(float(added.max()))
    assert shifts == set(range(-9, 11)), "rolled by −10 … 9, so that frame 10 … −9 comes first"
    assert min(levels) < 0.01
    assert max(levels) > 0.09
    assert spectrogram[3, 0] == 30, "the original is untouched"


@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 40), st.integers(0, 40), seeds)
def test_spec_augment_masks_one_stretch_of_each_axis(frames: int, mels: int, wide: int, high: int, seed: int) -> None:
    spectrogram = torch.ones(frames, mels)
    masked = augment.spec_augment(spectrogram, wide, high, drawn(seed))
    assert spectrogram.eq(1).all(), "the original is untouched"
    zero = masked == 0
    columns, rows = zero.all(1).nonzero().flatten().tolist(), zero.all(0).nonzero().flatten().tolist()
    for found, widest in (
        (columns, wide if len(rows) < mels else frames),
        (rows, high if len(columns) < frames else mels),
    ):
        assert len(found) <= widest
        assert not found or found == list(range(found[0], found[-1] + 1))
    expected = torch.ones(frames, mels)
    expected[columns] = 0
    expected[:, rows] = 0
    assert torch.equal(masked, expected), "nothing but these stretches"


def test_spec_augment_reaches_its_widths_and_every_place() -> None:
    generator = drawn()
    zeros = torch.stack([augment.spec_augment(torch.ones(12, 10), 4, 3, generator) == 0 for _ in range(500)])
    assert {int(z.all(1).sum()) for z in zeros} == set(range(5))
    assert {int(z.all(0).sum()) for z in zeros} == set(range(4))
    assert zeros.any(0).all()


@pytest.mark.parametrize("function", [augment.roll, augment.gain])
def test_a_waveforms_augmentation_is_its_generators(function) -> None:
    waveform = tone(0.1)
    assert np.array_equal(function(waveform, drawn(3)), function(waveform, drawn(3)))
    assert not np.array_equal(function(waveform, drawn(3)), function(waveform, drawn(4)))


def test_a_spectrograms_augmentation_is_its_generators() -> None:
    settings, spectrogram = Augment(noise=True, time_mask=20, frequency_mask=20), torch.randn(FRAMES, 128)
    once, again, other = (augment.augment_spectrogram(spectrogram, settings, True, drawn(s)) for s in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    untouched = augment.augment_spectrogram(spectrogram, Augment(time_mask=20), False, drawn(3))
    assert torch.equal(untouched, spectrogram), "masks are off"


# Data sets.


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> ClipTable:
    """Six clips of three classes, 0.3 to 0.8 seconds."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", tone(0.3 + 0.1 * i, hertz=200.0 * (i + 1)), 16_000)
        rows.append(ClipRow(folder / f"{i}.wav", (LABELS[i % 3],)))
    return ClipTable("tones", tuple(rows), LABELS)


NOISY = Augment(mixup=0.7, roll=True, gain=True, noise=True, time_mask=20, frequency_mask=20)
MASKED = Augment(time_mask=30, frequency_mask=30)


def dataset(table: ClipTable, settings: Augment | None = None, **changes) -> SpectrogramDataset:
    front = LogMel(FRAMES)
    return SpectrogramDataset(table, table.rows, front, SoundCache(None, front.max_seconds), settings, **changes)


def epoch(source: SpectrogramDataset | DataLoader, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All clips of one epoch, in order."""
    (source.dataset if isinstance(source, DataLoader) else source).set_epoch(number)
    batches = list(source) if isinstance(source, DataLoader) else [source[i] for i in range(len(source))]
    join = torch.cat if isinstance(source, DataLoader) else torch.stack
    return join([b["input_values"] for b in batches]), join([b["labels"] for b in batches])


def test_without_augmentation_clips_are_what_the_front_end_makes(table) -> None:
    plain = dataset(table)
    for i, row in enumerate(table.rows):
        waveform = load_audio(row.path, max_seconds=plain.front.max_seconds).waveform
        assert torch.equal(plain[i]["input_values"], plain.front(waveform)[0])
        assert plain[i]["labels"].tolist() == [float(i % 3 == k) for k in range(3)]
    assert torch.equal(epoch(plain, 0)[0], epoch(plain, 5)[0])


def test_labels_of_several_kinds(table) -> None:
    rows = (ClipRow(table.rows[0].path, ("a", "c")), ClipRow(table.rows[1].path, ("b",)))
    several = ClipTable("several", rows, LABELS, multi_label=True)
    assert dataset(several).targets.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert dataset(several).targets.dtype == torch.float32


def test_a_clip_does_not_depend_on_what_was_asked_before(table) -> None:
    one, other = dataset(table, NOISY, seed=3), dataset(table, NOISY, seed=3)
    expected = {e: epoch(one, e) for e in (0, 1)}
    for e, i in ((1, 4), (0, 2), (0, 2), (1, 0)):
        other.set_epoch(e)
        assert torch.equal(other[i]["input_values"], expected[e][0][i])
        assert torch.equal(other[i]["labels"], expected[e][1][i])
    assert not torch.equal(expected[0][0], expected[1][0])
    assert not torch.equal(epoch(dataset(table, NOISY, seed=4), 0)[0], expected[0][0])


def test_mixup_shares_the_labels(table) -> None:
    plain, mixed = dataset(table), dataset(table, Augment(mixup=0.5, mixup_alpha=1.0))
    labels = torch.cat([epoch(mixed, e)[1] for e in range(20)])
    torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
    among = (labels.amax(1) < 1).float().mean()
    assert 0.2 < among < 0.5, "half are mixed, a third of those with their own class"
    assert torch.equal(epoch(dataset(table, Augment(gain=True)), 0)[1], epoch(plain, 0)[1])


def test_what_was_mixed_is_heard(table) -> None:
    """The spectrogram is that of the two waveforms, in the share that the labels tell."""
    mixed = dataset(table, Augment(mixup=1.0, mixup_alpha=1.0), seed=1)
    waveforms = [mixed.cache.waveform(row) for row in table.rows]
    found = mixed[0]
    matches = 0
    for other in (1, 2, 4, 5):
        share = float(found["labels"][0])
        expected = mixed.front(augment.mix(waveforms[0], waveforms[other], share))[0]
        matches += torch.allclose(found["input_values"], expected, atol=1e-3)
    assert found["labels"].amax() < 1, "this seed draws another class"
    assert matches == 1


def test_spec_augment_stops_at_its_epoch(table) -> None:
    plain, masked = epoch(dataset(table), 0)[0], dataset(table, MASKED, mask_until=2)
    assert [torch.equal(epoch(masked, e)[0], plain) for e in range(4)] == [False, False, True, True]
    never_stops = dataset(table, MASKED)
    assert not torch.equal(epoch(never_stops, 1000)[0], plain)


@pytest.mark.parametrize("settings", [NOISY, MASKED])
def test_workers_that_live_on_see_the_epoch(table, settings: Augment) -> None:
    alone = dataset(table, settings, seed=3, mask_until=2)
    together = dataset(table, settings, seed=3, mask_until=2)
    loader = DataLoader(together, 2, num_workers=2, persistent_workers=True)
    for e in (0, 1, 2, 3, 0):
        for found, expected in zip(epoch(loader, e), epoch(alone, e)):
            assert torch.equal(found, expected)


# What makes training noisy inside the model.


def test_drop_path_drops_whole_clips_and_keeps_the_mean() -> None:
    branch = torch.randn(4000, 3, 2, generator=torch.Generator().manual_seed(0)) + 1
    path = DropPath(0.25)
    torch.manual_seed(0)
    dropped = path(branch)
    gone = (dropped == 0).flatten(1).all(1)
    torch.testing.assert_close(dropped[~gone], branch[~gone] / 0.75)
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.03)
    repeated = torch.stack([path(torch.ones(500, 1, 1)) for _ in range(40)])
    assert float(repeated.mean()) == pytest.approx(1.0, abs=0.02)
    assert path(branch.bfloat16()).dtype == torch.bfloat16


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero() -> None:
    branch = torch.randn(8, 3, 2)
    assert DropPath(0.9).eval()(branch) is branch
    assert DropPath(0.0)(branch) is branch


@pytest.mark.parametrize("build", [audiomae, ast])
def test_set_drop_path(build, spectrogram) -> None:
    model, plain = build().eval(), build().eval()
    set_drop_path(model, 0.3)
    assert [layer.dropout.rate for layer in find_adapter(model).layers] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(model(spectrogram).logits, plain(spectrogram).logits)
        model.train()
        assert not torch.equal(model(spectrogram).logits, model(spectrogram).logits)
    set_drop_path(model, 0.6)
    assert find_adapter(model).layers[3].dropout.rate == pytest.approx(0.6), "it may be set again"


@pytest.mark.parametrize("build", [audiomae, ast])
def test_drop_path_is_on_both_branches_while_pruned(build) -> None:
    """At rate → 1 every block passes its input through."""
    model = build()
    set_drop_path(model, 0.0)
    adapter = find_adapter(model)
    for layer in adapter.layers:
        layer.dropout = DropPath(1 - 1e-7)
    model.train()
    with ap.prune(model, ap.TopK(0.5)), torch.no_grad():
        seen = []
        hooks = [
            layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out))) for layer in adapter.layers
        ]
        model(torch.randn(2, 128, 128))
    assert len(seen) == len(hooks) == 4
    assert all(torch.equal(given_, out) for given_, out in seen if given_.shape == out.shape)


def test_what_has_no_dropout_gets_no_drop_path() -> None:
    with pytest.raises(UnsupportedModelError):
        set_drop_path(nn.Linear(2, 2), 0.1)
    model = audiomae()
    find_adapter(model).layers[1].dropout = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="has no dropout"):
        set_drop_path(model, 0.1)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.99), st.booleans())
def test_kept_patches_are_those_of_some_columns_and_rows(
    batch: int, time: int, frequency: int, rate: float, frequency_major: bool
) -> None:
    kept = kept_patches(batch, time, frequency, rate, frequency_major, torch.device("cpu"))
    columns_left = max(1, time - int(rate * time))
    rows_left = max(1, frequency - int(rate * frequency))
    assert kept.shape == (batch, columns_left * rows_left)
    for clip in kept.tolist():
        places = [(p % time, p // time) if frequency_major else (p // frequency, p % frequency) for p in clip]
        columns, rows = {t for t, _ in places}, {f for _, f in places}
        assert columns <= set(range(time))
        assert rows <= set(range(frequency))
        assert (len(columns), len(rows)) == (columns_left, rows_left)
        number = (lambda t, f: f * time + t) if frequency_major else (lambda t, f: t * frequency + f)
        assert clip == sorted(number(t, f) for t in columns for f in rows)


def test_every_patch_may_stay_and_clips_differ() -> None:
    torch.manual_seed(0)
    kept = kept_patches(64, 4, 8, 0.5, False, torch.device("cpu"))
    assert set(kept.flatten().tolist()) == set(range(32))
    assert len({tuple(clip) for clip in kept.tolist()}) > 32


@pytest.mark.parametrize(("build", "special"), [(audiomae, 1), (ast, 2)])
def test_patch_mask(build, special: int, spectrogram) -> None:
    """64 patches, 8 × 8: a quarter of the columns and of the rows leaves 6 · 6."""
    model, counts = build(), []
    find_adapter(model).layers[0].register_forward_hook(lambda _, args, out: counts.append(out.shape[1] - special))
    mask = PatchMask(model, 0.25, until=2)

    def run(training: bool) -> int:
        model.train(training)
        with torch.no_grad():
            model(spectrogram)
        return counts[-1]

    def begin(epoch: float | None) -> None:
        mask.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)

    assert run(True) == 64, "not before the training begins"
    mask.on_train_begin(None, SimpleNamespace(epoch=None), None)
    for at in (None, 0.0, 1.0, 1.5):
        begin(at)
        assert (run(True), run(False)) == (36, 64)
    with ap.prune(model, ap.TopK(0.5)):
        assert (run(True), run(False)) == (36, 64)
    begin(2.0)
    assert run(True) == 64
    mask.on_train_begin(None, SimpleNamespace(epoch=2.5), None)
    begin(2.5)
    assert run(True) == 64, "a run that is resumed after the end"
    mask.on_train_begin(None, SimpleNamespace(epoch=0.0), None)
    assert run(True) == 36
    mask.on_train_end(None, SimpleNamespace(epoch=1.0), None)
    mask.on_train_end(None, SimpleNamespace(epoch=1.0), None)
    assert run(True) == 64


def test_the_patch_mask_keeps_special_tokens_and_positions(spectrogram) -> None:
    model = audiomae().train()
    seen = {}
    embeddings = find_adapter(model).encoder.embeddings
    embeddings.register_forward_hook(lambda _, __, out: seen.update(whole=out))
    mask = PatchMask(model, 0.5, until=1)
    mask.on_train_begin(None, SimpleNamespace(epoch=0.0), None)
    embeddings.register_forward_hook(lambda _, __, out: seen.update(part=out))
    with torch.no_grad():
        model(spectrogram)
    whole, part = seen["whole"], seen["part"]
    assert torch.equal(whole[:, 0], part[:, 0])
    for clip in range(3):
        places = [int((whole[clip, 1:] == token).all(1).nonzero()[0]) for token in part[clip, 1:]]
        assert places == sorted(set(places))
        assert len(places) == 16


# Optimizers.

DECAY = 0.75
LAYERWISE = {
    "embeddings": DECAY**5,
    "layers.0": DECAY**4,
    "layers.1": DECAY**3,
    "layers.2": DECAY**2,
    "layers.3": DECAY,
    "fc_norm": 1.0,  # AudioMAE's
    "layernorm": 1.0,  # AST's, after the last block
    "classifier": 1.0,
}
"""By the start of a name, without the encoder's. A later block learns faster."""


@pytest.mark.parametrize("build", [audiomae, ast])
def test_layerwise_learning_rates(build) -> None:
    model = build()
    groups = parameter_groups(model, Optimizer(lr=1.0, layer_decay=DECAY, weight_decay=0.1), 2e-3)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        short = re.sub(r"^(audiomae|audio_spectrogram_transformer)\.", "", name)
        (expected,) = [factor for start, factor in LAYERWISE.items() if short.startswith(start + ".")]
        assert found[id(parameter)]["lr"] == pytest.approx(2e-3 * expected), name
        free = name.endswith(("bias", "cls_token", "distillation_token", "position_embeddings")) or "norm" in name
        assert found[id(parameter)]["weight_decay"] == (0.0 if free else 0.1), name


def test_twelve_blocks_are_as_in_the_authors_code() -> None:
    """lr · 0.75^(13 − i), i = 0 for the embeddings, 1 … 12 for the blocks, 13 for the rest."""
    model = audiomae(num_hidden_layers=12)
    groups = parameter_groups(model, Optimizer(lr=1.0, layer_decay=0.75), 1.0)
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.75 ** (13 - i) for i in range(14)])


def test_adam_spares_nothing_and_frozen_parameters_are_left_out(tmp_path) -> None:
    model = ast()
    find_adapter(model).encoder.embeddings.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = parameter_groups(model, Optimizer(name="adam", lr=1.0, weight_decay=5e-7), 1e-5)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-5, 5e-7)]
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in trained}
    recipe = make(tmp_path, "optimizer: {name: adam, lr: 1.0e-5, betas: [0.95, 0.999]}")
    optimizer = make_optimizer(model, recipe)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)
    assert type(make_optimizer(model, make(tmp_path))) is torch.optim.AdamW


@pytest.mark.parametrize(("start", "every", "gamma"), [(5, 1, 0.85), (10, 5, 0.5), (0, 2, 0.9)])
@pytest.mark.parametrize("per_epoch", [1, 7])
def test_steps_are_multi_step_lrs(start: int, every: int, gamma: float, per_epoch: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(range(start, 1000, every)), gamma)
    settings = LearningRate(name="step", start=start, every=every, factor=gamma)
    for number in range(30):
        found = {factor(number * per_epoch + i, 30 * per_epoch, per_epoch, 1.0, settings) for i in range(per_epoch)}
        (rate,) = found
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_warm_up_and_cosine() -> None:
    settings = LearningRate(warmup_epochs=2, min_lr=1e-5)
    rates = [factor(step, 100, 10, 1e-3, settings) for step in range(101)]
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[20] == 1.0
    assert rates[60] == pytest.approx((1 + 0.01) / 2), "halfway"
    assert rates[100] == pytest.approx(0.01), "min_lr"
    assert rates[99] == pytest.approx(0.01, abs=1e-3)
    assert all(later < now for now, later in itertools.pairwise(rates[20:]))
    assert factor(3, 100, 10, 1.0, LearningRate(warmup_steps=8)) == 0.5
    assert factor(500, 100, 10, 1.0, LearningRate()) == 0.0, "beyond the end"


def test_the_schedule_scales_every_group(tmp_path) -> None:
    recipe = make(tmp_path, "optimizer: {lr: 1.0e-3, layer_decay: 0.5}\nlearning_rate: {warmup_epochs: 1}")
    optimizer = make_optimizer(audiomae(), recipe)
    peaks = [group["lr"] for group in optimizer.param_groups]
    scheduler = make_scheduler(optimizer, recipe, 12)  # three epochs of four
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr / 4 for lr in peaks])
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(peaks)


# Losses and scores.


def test_cross_entropy_takes_distributions() -> None:
    logits, target = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    hot = F.one_hot(target, 3).float()
    assert label_loss(logits, hot, "ce") == pytest.approx(float(F.cross_entropy(logits, target)))
    smooth = F.cross_entropy(logits, target, label_smoothing=0.1)
    assert label_loss(logits, hot, "ce", 0.1) == pytest.approx(float(smooth))
    soft = torch.tensor([[0.25, 0.75, 0.0]])
    by_hand = -(soft * logits[:1].log_softmax(1)).sum()
    assert label_loss(logits[:1], soft, "ce") == pytest.approx(float(by_hand))
    assert label_loss(logits.half(), hot, "ce").dtype == torch.float32


def test_binary_cross_entropy() -> None:
    logits, labels = torch.randn(4, 3), torch.randint(0, 2, (4, 3)).float()
    p = logits.sigmoid()
    for smoothing in (0.0, 0.2):
        y = labels * (1 - smoothing) + smoothing / 2
        by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        assert label_loss(logits, labels, "bce", smoothing) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize("t", [1.0, 3.0])
def test_distillation_is_the_divergence_from_the_teacher(t: float) -> None:
    logits, teacher = torch.randn(4, 5), torch.randn(4, 5)
    settings, total = Distill(temperature=t), 0.0
    for student_row, teacher_row in zip(logits.double().tolist(), teacher.double().tolist()):
        q, p = (np.exp(np.array(row) / t) / np.exp(np.array(row) / t).sum() for row in (student_row, teacher_row))
        total += float((p * np.log(p / q)).sum()) / 4
    assert distillation_loss(logits, teacher, settings) == pytest.approx(total * t**2, rel=1e-4)
    assert distillation_loss(teacher, teacher, settings) == pytest.approx(0, abs=1e-6)
    assert distillation_loss(teacher + 7, teacher, settings) == pytest.approx(0, abs=1e-5), "logits have no origin"


def test_distillation_of_independent_classes() -> None:
    logits, teacher = torch.randn(4, 5), torch.randn(4, 5)
    p, q = logits.sigmoid(), teacher.sigmoid()
    by_hand = -(q * p.log() + (1 - q) * (1 - p).log()).mean()
    assert distillation_loss(logits, teacher, Distill(loss="bce")) == pytest.approx(float(by_hand), rel=1e-5)


def slow_average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean over the positives of the precision among all that rank at least as high."""
    at = [positive[scores >= scores[i]].mean() for i in np.flatnonzero(positive)]
    return float(np.mean(at))


@given(st.integers(2, 12), st.integers(1, 4), seeds)
def test_mean_average_precision(clips: int, classes: int, seed: int) -> None:
    generator = drawn(seed)
    logits, targets = generator.normal(size=(clips, classes)), generator.integers(0, 2, (clips, classes))
    targets[0, 0] = 1
    occurs = [c for c in range(classes) if targets[:, c].any()]
    expected = np.mean([slow_average_precision(logits[:, c], targets[:, c]) for c in occurs])
    found = score(logits, targets.astype(np.float32), multi_label=True)
    assert found == {"map": pytest.approx(expected), "score": pytest.approx(expected)}


def test_accuracy_and_spread() -> None:
    logits, targets = np.array([[2.0, 1, 0], [0, 3, 1], [0, 1, 2], [5, 0, 0]]), np.eye(3)[[0, 1, 1, 0]]
    assert score(logits, targets, multi_label=False) == {"accuracy": 0.75, "score": 0.75}
    assert spread([0.5, 0.7]) == {"mean": pytest.approx(0.6), "std": pytest.approx(math.sqrt(0.02))}
    assert spread([0.5]) == {"mean": 0.5}


def test_predict_is_the_model_in_evaluation(table) -> None:
    model = audiomae(max_length=FRAMES, num_labels=3, hidden_dropout_prob=0.5).train()
    counted: list[int] = []
    logits = predict(model, dataset(table), batch_size=4, advance=counted.append)
    assert model.training, "as it was before"
    assert counted == [4, 2]
    with torch.no_grad():
        expected = model.eval()(torch.stack([dataset(table)[i]["input_values"] for i in range(6)])).logits
    torch.testing.assert_close(logits, expected)


# Masked pre-training.

DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
SMALL = {**SHAPE, "max_length": FRAMES, **DECODER}


def pretraining(**changes) -> AudioMAEForPreTraining:
    """32 patches, 4 × 8."""
    torch.manual_seed(0)
    return AudioMAEForPreTraining(AudioMAEConfig(**{**SMALL, **changes}))


def test_patchify() -> None:
    model, x = pretraining(), torch.randn(2, FRAMES, 128)
    patches = model.patchify(x)
    assert patches.shape == (2, 32, 256)
    for t in range(4):
        for f in range(8):
            cell = x[:, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16]
            assert torch.equal(patches[:, t * 8 + f], cell.flatten(1))
    assert torch.equal(model.unpatchify(patches), x)


def test_patches_are_those_of_the_encoder() -> None:
    """What the convolution sees of patch i is row i of `patchify`."""
    model, x = pretraining(), torch.randn(2, FRAMES, 128)
    projection = model.audiomae.embeddings.projection
    by_patch = model.patchify(x) @ projection.weight.flatten(1).T + projection.bias
    torch.testing.assert_close(projection(x[:, None]).flatten(2).transpose(1, 2), by_patch, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ratio", "seen"), [(0.8, 6), (0.75, 8), (0.99, 1), (0.5, 16)])
def test_the_encoder_sees_few_patches(ratio: float, seen: int) -> None:
    model, counts = pretraining(mask_ratio=ratio).eval(), []
    model.audiomae.layers[0].register_forward_hook(lambda _, args, out: counts.append(out.shape[1]))
    outputs = model(torch.randn(3, FRAMES, 128))
    assert counts == [1 + seen]
    assert outputs.mask.sum(1).tolist() == [32 - seen] * 3
    assert outputs.logits.shape == (3, 32, 256)
    assert model(torch.randn(3, FRAMES, 128), return_dict=False)[0].ndim == 0


@torch.no_grad()
def test_what_is_hidden_is_not_seen() -> None:
    model = pretraining().eval()
    x, noise = torch.randn(1, FRAMES, 128), torch.rand(1, 32)
    outputs = model(x, noise)
    hidden = model.unpatchify(outputs.mask[..., None].expand(-1, -1, 256)) > 0
    assert set(noise[outputs.mask == 0].tolist()) == set(noise.sort().values[0, :6].tolist())
    elsewhere = torch.where(hidden, torch.randn_like(x), x)
    assert torch.equal(model(elsewhere, noise).logits, outputs.logits)
    assert not torch.equal(model(elsewhere, noise).loss, outputs.loss)
    assert not torch.equal(model(torch.where(hidden, x, x + 1), noise).logits, outputs.logits)


@torch.no_grad()
def test_each_seen_patch_goes_back_to_its_place() -> None:
    """A decoder of no blocks that passes its input on: where a patch is seen, its own token and position come out."""
    model = pretraining(hidden_size=32, decoder_hidden_size=32).eval()
    decoder = model.decoder
    decoder.layers, decoder.norm, decoder.predict = nn.ModuleList(), nn.Identity(), nn.Identity()
    decoder.embed = nn.Identity()
    encoded, kept = torch.randn(2, 4, 32), torch.tensor([[5, 0, 31], [2, 9, 4]])
    found = decoder(encoded, kept)
    for clip in range(2):
        for place in range(32):
            at = kept[clip].tolist().index(place) + 1 if place in kept[clip] else None
            token = decoder.mask_token[0, 0] if at is None else encoded[clip, at]
            torch.testing.assert_close(found[clip, place], token + decoder.position_embeddings[0, 1 + place])


@pytest.mark.parametrize("norm", [True, False])
def test_the_loss_is_that_of_hidden_patches(norm: bool) -> None:
    model = pretraining(norm_pix_loss=norm)
    logits, target, mask = torch.randn(2, 32, 256), torch.randn(2, 32, 256) * 3 + 1, (torch.rand(2, 32) > 0.3).float()
    errors = []
    for clip, patch in mask.nonzero().tolist():
        wanted = target[clip, patch].double().numpy()
        if norm:
            wanted = (wanted - wanted.mean()) / math.sqrt(wanted.var(ddof=1) + 1e-6)
        errors.append(((logits[clip, patch].double().numpy() - wanted) ** 2).mean())
    assert model.error(logits, target, mask) == pytest.approx(np.mean(errors), rel=1e-5)
    otherwise = torch.where(mask[..., None] > 0, target, torch.randn_like(target))
    assert torch.equal(model.error(logits, otherwise, mask), model.error(logits, target, mask))


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
def test_reconstruct_shows_what_was_seen_and_what_was_drawn(norm: bool) -> None:
    model, x = pretraining(norm_pix_loss=norm).eval(), torch.randn(2, FRAMES, 128)
    outputs = model(x)
    drawn_back = model.patchify(model.reconstruct(x, outputs))
    target = model.patchify(x)
    for clip in range(2):
        for i in range(32):
            patch = target[clip, i]
            expected = outputs.logits[clip, i]
            if norm:
                expected = expected * (patch.var() + 1e-6).sqrt() + patch.mean()
            torch.testing.assert_close(drawn_back[clip, i], expected if outputs.mask[clip, i] else patch)


def test_everything_learns() -> None:
    model = pretraining()
    model(torch.randn(2, FRAMES, 128)).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("ratio", [0, 1, 1.2])
def test_a_mask_ratio_that_hides_nothing_or_all(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"mask_ratio is {ratio}"):
        pretraining(mask_ratio=ratio)


def test_a_classifier_from_a_pre_trained_folder(tmp_path) -> None:
    model = pretraining()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    loaded = ap.load(tmp_path, num_labels=3)
    expected = model.audiomae.state_dict()
    assert expected.keys() == loaded.audiomae.state_dict().keys()
    assert all(torch.equal(expected[key], value) for key, value in loaded.audiomae.state_dict().items())
    assert loaded.classifier.out_features == 3
    again = AudioMAEForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(ap.CheckpointError, match="num_labels="):
        ap.load(tmp_path)
    with pytest.raises(ValueError, match="input_values are missing"):
        model()


# The model that a recipe trains.

BASE = """
about: For a test.
family: audiomae
preset: speech-commands
config: {hidden_size: 48, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 96, max_length: 64}
epochs: 3
batch_size: 4
precision: fp32
"""


def make(folder: Path, text: str = "", *words: str) -> Recipe:
    """A small recipe, with settings in YAML over those of `BASE`."""
    (folder / "base.yaml").write_text(BASE + "optimizer: {lr: 1.0e-3}\n")
    (folder / "tiny.yaml").write_text("extends: base.yaml\n" + text)
    return read_recipe(folder / "tiny.yaml", words)


@pytest.mark.parametrize("family", ["audiomae", "ast", "ast-mp"])
def test_a_model_is_drawn_for_the_labels(tmp_path, family: str) -> None:
    torch.manual_seed(0)
    model = build_model(make(tmp_path, f"family: {family}\nhead_init_std: 2.0e-5"), LABELS)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    dense = model.classifier if family == "audiomae" else model.classifier.dense
    assert dense.weight.shape == (3, 48)
    assert 0 < float(dense.weight.detach().abs().max()) < 1e-4
    assert not dense.bias.any()
    assert model(torch.randn(2, 64, 128)).logits.shape == (2, 3)
    if family != "audiomae":
        embeddings = find_adapter(model).encoder.embeddings
        assert float(embeddings.position_embeddings.detach().std()) == pytest.approx(0.02, rel=0.2)
    model.save_pretrained(tmp_path / "model")
    again = ap.load(tmp_path / "model")
    assert type(again) is type(model)
    assert again.config.id2label == model.config.id2label


def test_a_head_is_kept_for_the_same_labels_only(tmp_path) -> None:
    start = build_model(make(tmp_path), LABELS)
    nn.init.normal_(start.classifier.weight)
    nn.init.normal_(start.classifier.bias)
    start.save_pretrained(tmp_path / "start")

    def head(labels: tuple[str, ...], *words: str) -> tuple[bool, bool]:
        """Whether the head, and whether the encoder, are the start's."""
        model = build_model(make(tmp_path, "", *words), labels, tmp_path / "start")
        assert list(model.config.id2label.values()) == list(labels)
        assert model.classifier.out_features == len(labels)
        encoder = start.audiomae.state_dict()
        same = all(torch.equal(encoder[key], value) for key, value in model.audiomae.state_dict().items())
        return torch.equal(model.classifier.weight[:2], start.classifier.weight[:2]), same

    assert head(LABELS) == (True, True)
    assert head(("b", "a", "c")) == (False, True), "as many labels, but others"
    assert head(LABELS[:2]) == (False, True)
    assert head((*LABELS, "d")) == (False, True)
    assert head(LABELS, "new_head=true") == (False, True)


def test_a_start_of_another_shape(tmp_path) -> None:
    build_model(make(tmp_path), LABELS).save_pretrained(tmp_path / "start")
    for word in ("config.hidden_size=32", "config.num_hidden_layers=2", "config.intermediate_size=64"):
        with pytest.raises(ValueError, match="asks for"):
            build_model(make(tmp_path, "", word), LABELS, tmp_path / "start")


def test_a_start_of_another_family(tmp_path) -> None:
    strides = ("config.time_stride=16", "config.frequency_stride=16")
    build_model(make(tmp_path), LABELS).save_pretrained(tmp_path / "audiomae")
    build_model(make(tmp_path, "family: ast", *strides), LABELS).save_pretrained(tmp_path / "ast")
    with pytest.raises(ValueError, match="ASTForAudioClassification, but the recipe tiny trains an AudioMAE"):
        build_model(make(tmp_path), LABELS, tmp_path / "ast")
    with pytest.raises(ValueError, match="is for an AST"):
        build_model(make(tmp_path, "family: ast", *strides), LABELS, tmp_path / "audiomae")
    mean = build_model(make(tmp_path, "family: ast-mp", *strides), LABELS, tmp_path / "ast")
    assert mean.config.pooling == "mean", "an AST may become an AST-MP"


def test_a_start_that_must_be_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"tiny starts from trained weights.*--init.*For a test"):
        build_model(make(tmp_path, "needs_init: true"), LABELS)


def test_a_pre_training_model(tmp_path) -> None:
    words = [f"config.{key}={value}" for key, value in DECODER.items()]
    recipe = make(tmp_path, "task: pretrain", *words, "config.mask_ratio=0.75")
    model = build_model(recipe, LABELS)
    assert isinstance(model, AudioMAEForPreTraining)
    assert (model.config.mask_ratio, model.config.max_length) == (0.75, 64)
    model.save_pretrained(tmp_path / "start")
    again = build_model(recipe, LABELS, tmp_path / "start")
    assert torch.equal(again.decoder.mask_token, model.decoder.mask_token)
    classifier = build_model(make(tmp_path), LABELS, tmp_path / "start")
    assert torch.equal(classifier.audiomae.layers[3].mlp.fc1.weight, model.audiomae.layers[3].mlp.fc1.weight)


def test_a_frozen_copy_is_another_model() -> None:
    model = audiomae().train()
    copy = frozen_copy(model)
    assert not copy.training
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert copy.classifier.weight.any()


# Checkpoints.


def checkpoint(out: Path, step: int, without: str = "", state: str | None = None) -> Path:
    state = f'{{"global_step": {step}}}' if state is None else state
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        if name != without:
            (folder / name).write_text(state)
    return folder


def test_the_newest_complete_checkpoint(tmp_path) -> None:
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    expected = checkpoint(tmp_path, 20)
    torn = [
        checkpoint(tmp_path, 100, without="trainer_state.json"),
        checkpoint(tmp_path, 101, without="optimizer.pt"),
        checkpoint(tmp_path, 102, without="scheduler.pt"),
        checkpoint(tmp_path, 103, state='{"epoch": 1.'),
        checkpoint(tmp_path, 104, state=""),
        checkpoint(tmp_path, 105, state='{"global_step": 20}'),
    ]
    others = [tmp_path / name for name in ("checkpoint-best", "checkpoint-1x", "runs", "notcheckpoint-200")]
    for other in others:
        other.mkdir()
    assert last_checkpoint(tmp_path) == expected
    assert not any(path.exists() for path in torn)
    assert all(other.exists() for other in others)
    assert (tmp_path / "checkpoint-9").exists(), "older ones are not looked at"


def test_all_checkpoints_are_torn(tmp_path) -> None:
    checkpoint(tmp_path, 3, without="optimizer.pt")
    assert last_checkpoint(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_arguments(tmp_path) -> None:
    recipe = make(tmp_path, "batch_size: 8")
    assert arguments(recipe, tmp_path, 0, processes=2).per_device_train_batch_size == 4
    assert arguments(recipe, tmp_path, 0, max_steps=3).max_steps == 3
    with pytest.raises(ValueError, match="batch_size is 8; it must be a multiple of the 3 processes"):
        arguments(recipe, tmp_path, 0, processes=3)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="precision is fp16"):
            arguments(make(tmp_path, "precision: fp16"), tmp_path, 0)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_machine_computes_it(native: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("audioprune.training.precision._computes_bf16", lambda: native)
    recipe = make(tmp_path, "precision: auto")
    assert precision_of(recipe) == ("bf16" if native else "fp32")
    assert arguments(recipe, tmp_path, 0).bf16 == native
    half = make(tmp_path, "precision: bf16")
    if native:
        assert arguments(half, tmp_path, 0).bf16
    else:
        with pytest.warns(UserWarning, match="has no instructions: .*--set precision=auto"):
            assert arguments(half, tmp_path, 0).bf16


def test_a_training_does_not_change_its_precision_on_another_machine(tmp_path, monkeypatch) -> None:
    task = Task(make(tmp_path, "precision: auto"), ClipTable("esc10", (), LABELS), tmp_path / "out")
    monkeypatch.setattr("audioprune.training.precision._computes_bf16", lambda: True)
    record_task(task)
    file = task.out / "task.json"
    before = json.loads(file.read_text())
    del before["precision"]
    before["recipe"]["precision"] = "bf16"  # as an earlier version wrote it
    for begun in (json.loads(file.read_text()), before):
        file.write_text(json.dumps(begun))
        record_task(task)
        with monkeypatch.context() as other:
            other.setattr("audioprune.training.precision._computes_bf16", lambda: False)
            with pytest.raises(ValueError, match=r"begun with precision='bf16' \(not 'fp32'\)"):
                record_task(task)


# Sweeps.


@pytest.fixture
def folded() -> ClipTable:
    """Three folds of six clips, nothing on disk."""
    rows = tuple(ClipRow(Path(f"{i}.wav"), (LABELS[i % 3],), part="123"[i // 6]) for i in range(18))
    return ClipTable("esc10", rows, LABELS, folds=("1", "2", "3"))


def test_a_plan_follows_what_it_starts_from(folded, tmp_path) -> None:
    chosen = [read_recipe("esc10-audiomae-topk")]
    steps = plan(chosen, folded, tmp_path, folds=("1", "2"), seeds=(0, 7), keep_rates=(1.0, 0.5))
    fold, names = "esc10-pretrain/fold{}-seed0", []
    for seed in (0, 7):
        for number in (1, 2):
            names += [fold.format(number)] * (seed == 0)  # one pre-training for both seeds
            names += [f"esc10-audiomae/fold{number}-seed{seed}"]
            names += [f"esc10-audiomae-topk/fold{number}-seed{seed}-rate{rate}" for rate in ("1", "0.5")]
    assert [step.name for step in steps] == names
    by_name = {step.name: step for step in steps}
    last = by_name["esc10-audiomae-topk/fold2-seed7-rate0.5"]
    assert last.after is by_name["esc10-audiomae/fold2-seed7"]
    assert last.after.after is by_name["esc10-pretrain/fold2-seed0"]
    assert last.task.init == last.after.task.out == tmp_path / "esc10-audiomae" / "fold2-seed7"
    assert (last.task.keep_rate, last.task.fold, last.task.seed) == (0.5, "2", 7)
    assert last.after.after.task.init is None
    assert not any(step.done for step in steps)


def test_a_plan_lists_each_training_once(folded, tmp_path) -> None:
    """Unpruned recipes have no keep rate, and what several start from is trained once."""
    chosen = [read_recipe(name) for name in ("esc10-ast", "esc10-ast-topk", "esc10-ast")]
    steps = plan(chosen, folded, tmp_path, folds=("1",), seeds=(3,), keep_rates=(0.7, 0.5), hold_out=("2",))
    assert [step.name for step in steps] == [
        "esc10-ast/fold1-without2-seed3",
        "esc10-ast-topk/fold1-without2-seed3-rate0.7",
        "esc10-ast-topk/fold1-without2-seed3-rate0.5",
    ]
    assert all(step.task.hold_out == ("2",) for step in steps)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folds": ("1", "9")}, "no fold '9'"),
        ({"folds": (None,)}, "choose one as the test"),
        ({"folds": ("1",), "hold_out": ("9",)}, "no fold '9'"),
        ({"folds": ("1",), "keep_rates": (1.0, 1.3)}, "keep_rate is 1.3"),
    ],
)
def test_a_plan_that_cannot_be(folded, tmp_path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan([read_recipe("esc10-ast-topk")], folded, tmp_path, **wrong)


def test_folder_names() -> None:
    assert folder_name(None, (), 0, None) == "seed0"
    assert folder_name("1", ("4", "5"), 12, 0.9) == "fold1-without4+5-seed12-rate0.9"


def _claim(folder: Path, pipe) -> None:
    with claim(folder) as mine:
        pipe.send(mine)
        pipe.recv()


def test_a_claim_excludes_and_ends_with_its_process(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_claim, args=(tmp_path / "run", there))
    process.start()
    try:
        assert here.poll(20)
        assert here.recv() is True
        with claim(tmp_path / "run") as mine:
            assert mine is False
        with claim(tmp_path / "other") as mine:
            assert mine is True
    finally:
        process.kill()
        process.join(20)
    with claim(tmp_path / "run") as mine:
        assert mine is True
    with claim(tmp_path / "run") as mine:
        assert mine is True, "it ends with the block too"


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the trainings that a sweep would run; each writes its result."""
    done: list[str] = []

    def train(task, callbacks=(), **changes):
        result = task.out / "result.json"
        if not result.exists():
            done.append(f"{task.recipe.name}/{task.out.name}")
            assert task.init is None or (Path(task.init) / "result.json").exists()
            result.write_text(json.dumps({"name": done[-1]}))
        return json.loads(result.read_text())

    monkeypatch.setattr(sweep, "fine_tune", train)
    monkeypatch.setattr(sweep, "pretrain", train)
    return done


def test_a_sweep_runs_in_order_and_skips_what_is_done(folded, tmp_path, trained) -> None:
    steps = plan([read_recipe("esc10-audiomae-topk")], folded, tmp_path, folds=("1",), keep_rates=(0.7, 0.5))
    names = [step.name for step in steps]
    (tmp_path / names[0]).mkdir(parents=True)
    (tmp_path / names[0] / "result.json").write_text('{"name": "before"}')
    begun, ended = [], []
    results = sweep.run(steps, lambda s: begun.append(s.name), lambda s, r: ended.append(r["name"]), wait_seconds=0.01)
    assert trained == begun == ended == names[1:]
    assert [result["name"] for result in results] == ["before", *names[1:]]
    assert sweep.run(steps) == results
    assert trained == names[1:], "nothing is trained again"


def test_a_sweep_leaves_what_others_are_at_and_waits(folded, tmp_path, trained, monkeypatch) -> None:
    steps = plan([read_recipe("esc10-ast")], folded, tmp_path, folds=("1", "2"))
    waits: list[float] = []
    other = claim(steps[0].task.out)
    assert other.__enter__()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # the other process gave up, without a result
            other.__exit__(None, None, None)

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    sweep.run(steps, wait_seconds=3.0)
    assert trained == [steps[1].name, steps[0].name]
    assert waits == [3.0, 3.0]


# Tables.


def test_cells() -> None:
    found = cells("runs/fold{fold}-seed{seed}-rate{rate}", [1.0, 0.5], ["1", "2"], [0])
    assert [cell.model for cell in found] == [
        "runs/fold1-seed0-rate1",
        "runs/fold2-seed0-rate1",
        "runs/fold1-seed0-rate0.5",
        "runs/fold2-seed0-rate0.5",
    ]
    assert {(cell.fold, cell.seed, cell.keep_rate) for cell in found} == {
        (fold, 0, rate) for fold in "12" for rate in (1.0, 0.5)
    }
    assert [cell.model for cell in cells("esc10", [0.7, 0.5], [None], [None])] == ["esc10", "esc10"]


@pytest.mark.parametrize(
    ("model", "folds", "seeds_", "message"),
    [
        ("runs/{fold}", [None], [None], r"contains {fold}; give its values with --folds"),
        ("runs/{fold}", (None,), (None,), r"contains {fold}; give its values with --folds"),
        ("runs/{seed}", ["1"], [None], r"contains {seed}; give its values with --seeds"),
        ("runs/a", ["1", "2"], [None], r"one model for several folds; put {fold}"),
        ("runs/{fold}", ["1", "2"], [0, 1], r"one model for several seeds; put {seed}"),
        ("runs/{epoch}", [None], [None], "only {fold}, {seed} and {rate}"),
        ("runs/{}", [None], [None], "only {fold}, {seed} and {rate}"),
        ("runs/{fold", ["1"], [None], "only {fold}, {seed} and {rate}"),
    ],
)
def test_cells_that_cannot_be_told_apart(model: str, folds, seeds_, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cells(model, [0.5], folds, seeds_)


def test_clips_of_cells(folded) -> None:
    assert clips_of(cells("{fold}", [1.0, 0.5], ["1", "2"], [None]), folded) == 2 * 2 * 6


def test_summarize() -> None:
    def result(name: str, fold: str | None, seed: int, rate: float, value: float | None) -> dict:
        row = {"recipe": {"name": name}, "fold": fold, "seed": seed, "keep_rate": rate}
        return row if value is None else row | {"score": value}

    rows = summarize(
        [
            result("pre", "1", 0, 1.0, None),
            result("one", "1", 0, 0.5, 0.6),
            result("one", "2", 0, 0.5, 0.8),
            result("one", "1", 0, 0.7, 0.9),
            result("two", None, 3, 0.5, 0.1),
        ]
    )
    assert rows == [
        {"recipe": "one", "keep_rate": 0.7, "scores": {"fold1-seed0": 0.9}, "mean": 0.9},
        {
            "recipe": "one",
            "keep_rate": 0.5,
            "scores": {"fold1-seed0": 0.6, "fold2-seed0": 0.8},
            "mean": pytest.approx(0.7),
            "std": pytest.approx(math.sqrt(0.02)),
        },
        {"recipe": "two", "keep_rate": 0.5, "scores": {"seed3": 0.1}, "mean": 0.1},
    ]
