"""Methods of the literature: what they refuse, what they learn, and the losses they add, against sums by hand."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

import audioprune as ap
from audioprune.attention import scoring as attention
from audioprune.attention.pieces import attend_by_policy
from audioprune.core import ops
from audioprune.core.settings import describe, read_method
from audioprune.core.tokens import Evidence, LossInputs, Tokens
from audioprune.methods import UntrainedError, dynamicvit, spvit
from audioprune.methods.learned import one_at_least, straight_through

from .families import FAMILIES, ast, audiomae, inputs_for
from .reference import pruned_forward
from .settings import METHODS, teach
from .training import pruned_loss

LEARNED = ("dynamicvit", "spvit", "avit")


# A fused token


@torch.no_grad()
@pytest.mark.parametrize("score", ["intensity", "variation"])
@pytest.mark.parametrize("family", ["audiomae", "wav2vec2"])
def test_a_fused_token_is_ranked_as_an_average_patch(family: str, score: str) -> None:
    """Against the slow reference, at a stage where the fused token of an earlier one competes."""
    model = FAMILIES[family]().eval().double()
    inputs = {name: x.double() for name, x in inputs_for(family).items()}
    method = ap.TopK((0.9, 0.6), layers=(0, 2), score=score, dropped="fuse")
    with ap.prune(model, method), ap.trace(model) as record:
        logits = model(**inputs).logits
    expected, kept = pruned_forward(model, inputs, method)
    assert [stage.tolist() for stage in record.kept] == kept
    assert torch.allclose(logits, expected, rtol=0, atol=1e-9)


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ap.ToMe(0.4), r"keep_rate is 0.4, but ToMe merges pairs.*at least 0.5"),
        (lambda: ap.ToFu((0.9, 0.3), layers=(1, 2)), "ToFu merges pairs"),
        (lambda: ap.ToMe.constant(r=13, patches=64, depth=4), r"r is 13, but block 3 has 25.*r is at most 12"),
        (lambda: ap.ToMe.constant(r=-1, patches=64, depth=4), "r is -1"),
        (lambda: ap.ToMe(0.7, layers=(3, 1)), "must ascend"),
        (lambda: ap.ToFu(0.7, pruned_share=1.5), "pruned_share is 1.5"),
        (lambda: ap.ATS(0.5, score="intensity"), "score is 'intensity'; ATS takes cls, attention"),
        (lambda: ap.EViT(0.5, score="loudness"), "score is 'loudness'"),
        (lambda: ap.DynamicViT(0.0), "keep_rate is 0.0"),
        (lambda: ap.AViT((0.5, 0.6)).schedule(4), "A-ViT decides after every block"),
        (lambda: ap.SPViT(0.5, layers=(9,)).schedule(4), "layer 9 does not exist"),
        (lambda: ap.EVS(0.5, dropped="fuse"), "dropped is 'fuse'; EVS takes discard, merge"),
        (lambda: ap.UniformStride(0.5, dropped=None), "dropped is None; UniformStride takes discard, merge"),
        (lambda: ap.DPP(0.5, score="cls"), "score is 'cls'; DPP takes attention, none"),
        (lambda: ap.AToMe(0.5, metric="values"), "metric is 'values'"),
        (lambda: ap.VisionZip(0.5, contextual=1.5), "contextual is 1.5; .* from 0 to 1"),
        (lambda: ap.VisionZip(0.5, contextual="10"), "contextual is '10'"),
        (lambda: ap.VisionZip(0.5, score="none"), "score is 'none'; VisionZip takes attention, cls"),
    ],
)
def test_what_cannot_be_right_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_constant_schedule_merges_as_many_everywhere() -> None:
    method = ap.ToMe.constant(r=12, patches=64, depth=4)
    assert method.counts(64, 4) == [64, 52, 40, 28, 16]
    assert ap.ToMe.constant(r=13, patches=256, depth=12).counts(256, 12)[-1] == 256 - 12 * 13
    assert ap.ToMe.constant(r=0, patches=64, depth=4).counts(64, 4) == [64] * 5


@torch.no_grad()
@pytest.mark.parametrize("name", LEARNED)
def test_what_has_not_learnt_does_not_choose(name: str, spectrogram) -> None:
    model = audiomae().eval()
    with ap.prune(model, METHODS[name]) as handle:
        with pytest.raises(UntrainedError, match=f"{type(METHODS[name]).__name__} chooses.*weights="):
            model(spectrogram)
        model.train()(spectrogram)
        assert handle.learned.trained == 1
        assert torch.isfinite(model.eval()(spectrogram).logits).all()


def test_weights_that_are_missing_damaged_or_of_another_model(tmp_path) -> None:
    with ap.prune(audiomae(hidden_size=32), ap.DynamicViT(0.7)) as handle:
        handle.save(tmp_path / "other")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    model = audiomae()
    keys = list(model.state_dict())
    for file, message in (
        ("missing.safetensors", r"no such file as .*missing\.safetensors"),
        ("damaged.safetensors", r"damaged\.safetensors: not a safetensors file"),
        ("other/pruning.safetensors", r"made for another method, model or choice of layers"),
    ):
        with pytest.raises(ValueError, match=message):
            ap.prune(model, ap.DynamicViT(0.7, weights=str(tmp_path / file)))
        assert ap.handle(model) is None
        assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match="made for another method"):
        ap.prune(model, tmp_path / "other")


@torch.no_grad()
def test_counting_needs_the_sound_where_the_sound_decides(spectrogram) -> None:
    model = audiomae().eval()
    full = ap.macs(model)
    for name in ("ats", "spvit", "avit"):
        with ap.prune(model, METHODS[name]) as handle:
            teach(handle)
            with pytest.raises(ValueError, match=r"depends on the sound; pass inputs="):
                ap.macs(model)
            assert ap.macs(model, inputs=spectrogram) < full
            assert "at most" in repr(handle)
    with ap.prune(model, METHODS["dynamicvit"]):
        assert ap.macs(model) < full  # of shapes alone, which no training changes


# What is compared with in audio-language models: exactly K tokens, of neighbours in time

EXACT = [name for name in METHODS if name.split("-")[0] in {"uniform", "evs", "divprune", "dpp", "visionzip"}]
EXACT += [name for name in METHODS if name.split("-")[0] in {"atome", "fastadasp"}]


def heard(hidden: torch.Tensor, columns: int) -> tuple[Tokens, Evidence]:
    """Tokens (batch, n, width) of a grid numbered in time first, row after row, all of the same attention and size."""
    patch = torch.arange(hidden.shape[1]).expand(hidden.shape[:2])
    evidence = Evidence(
        layer=0,
        depth=1,
        patch=patch,
        column=patch % columns,
        columns=columns,
        row=patch // columns,
        patches=hidden.shape[1],
        special=hidden[:, :0],
        attention=torch.full(hidden.shape[:2], 0.1),
        cls=torch.full(hidden.shape[:2], 0.1),
        keys=hidden,
    )
    return Tokens(hidden, patch), evidence


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_exactly_k_of_tokens_that_are_all_alike(name: str, n: int) -> None:
    """Silence: every token the same, or nothing at all. What is alike merges into itself."""
    for hidden in (torch.ones(2, n, 8), torch.zeros(2, n, 8)):
        for rate in (0.01, 0.3, 0.5, 0.99):
            k = ops.budget(rate, n)
            left = METHODS[name].reduce(*heard(hidden, columns=n), rate)
            assert left.tokens.count == left.kept.shape[1] == k
            assert all(row == sorted(set(row)) for row in left.kept.tolist())
            assert torch.equal(left.tokens.hidden, hidden[:, :k])
            assert torch.isfinite(left.scores).all()


@pytest.mark.parametrize("name", EXACT)
def test_settings_are_written_and_read_again(name: str, tmp_path) -> None:
    (tmp_path / "pruning.json").write_text(json.dumps(describe(METHODS[name])))
    assert read_method(tmp_path) == METHODS[name]


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in EXACT if "merged" in name or METHODS[name].needs >= {"keys"}])
def test_what_merges_forgets_no_patch(name: str, spectrogram) -> None:
    model = audiomae().eval()
    with ap.prune(model, METHODS[name]), ap.trace(model) as record:
        model(spectrogram)
    for stage in range(len(record.kept)):
        sources = record.sources(stage, clip=1)
        assert sorted(patch for group in sources for patch in group) == list(range(64))
        assert all(p in group for p, group in zip(record.kept[stage][1].tolist(), sources, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["atome", "fastadasp"])
@pytest.mark.parametrize("build", [audiomae, ast])
def test_merging_in_time_stays_in_its_row(name: str, build, spectrogram) -> None:
    """Down to one token a row, and no further."""
    model, kind = build().eval(), type(METHODS[name])
    with ap.prune(model, kind((0.3, 0.4), layers=(0, 2))), ap.trace(model) as record:
        model(spectrogram)
    assert record.kept[1].shape[1] == 8
    for stage in (0, 1):
        # Along time each row is cut into runs: a token's patches are next to each other.
        for row in record.holder_map(stage).transpose(1, 2).flatten(0, 1).tolist():
            runs = [token for token, _ in itertools.groupby(row)]
            assert len(set(runs)) == len(runs) >= 1
    for holders in record.holder_map(1):
        assert all(len(row.unique()) == 1 for row in holders.T)
        assert len(holders.unique()) == 8
    with (
        ap.prune(model, kind(0.1, layers=(1,))),
        pytest.raises(ValueError, match="8: of 64 tokens at block 1.*leave 7"),
    ):
        model(spectrogram)


def test_evs_keeps_what_changes() -> None:
    """Two frequency rows of six columns: the first of each, and where a steady sound becomes another."""
    steady, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, -1.0])
    rows = [[steady, 3 * steady, other, other, other, -other], [other, other, steady, steady, steady, steady]]
    tokens, evidence = heard(torch.stack([x for row in rows for x in row])[None], columns=6)
    left = ap.EVS(0.5).reduce(tokens, evidence, 5 / 12)
    assert left.kept.tolist() == [[0, 2, 5, 6, 8]]
    assert left.scores.tolist()[0] == pytest.approx([2, 0, 1, 0, 0, 2, 2, 0, 1, 0, 0, 0], abs=1e-6)
    assert torch.equal(left.tokens.hidden, tokens.hidden[:, left.kept[0]])
    # In the other numbering, frequency first, it keeps the same.
    turned = torch.arange(12).reshape(2, 6).T.flatten()
    evidence = replace(evidence, column=turned[None] % 6, row=turned[None] // 6)
    again = ap.EVS(0.5).reduce(replace(tokens, hidden=tokens.hidden[:, turned]), evidence, 5 / 12)
    assert sorted(turned[again.kept[0]].tolist()) == [0, 2, 5, 6, 8]


def test_dpp_weighs_by_attention() -> None:
    """Of tokens that all differ those that matter; of tokens that matter alike those that differ."""
    tokens, evidence = heard(torch.eye(6)[None], columns=6)
    attention = torch.tensor([[0.1, 0.6, 0.2, 0.5, 0.3, 0.4]])
    weighed = ap.DPP(0.5).reduce(tokens, replace(evidence, attention=attention), 0.5)
    assert weighed.kept.tolist() == [[1, 3, 5]]
    assert weighed.scores.tolist() == [[0, 3, 0, 2, 0, 1]]
    repeated, evidence = heard(torch.eye(6)[None, [0, 0, 0, 1, 1, 2]], columns=6)
    assert ap.DPP(0.5).reduce(repeated, evidence, 0.5).kept.tolist() == [[0, 3, 5]]
    assert ap.DivPrune(0.5).reduce(repeated, evidence, 0.5).kept.tolist() == [[0, 3, 5]]
    assert ap.DPP(0.5, score="none").needs == frozenset()


def test_visionzip_leaves_dominant_tokens_alone() -> None:
    hidden = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(8))
    tokens, evidence = heard(hidden, columns=12)
    attention = torch.zeros(1, 12)
    attention[0, [2, 3, 9]] = 1.0
    left = ap.VisionZip(0.5, contextual=0.4).reduce(tokens, replace(evidence, attention=attention), 5 / 12)
    # The rest is 0, 1, 4, 5, 6, 7, 8, 10, 11: 9 tokens, of which every fourth is a target.
    assert left.kept.tolist() == [[0, 2, 3, 6, 9]]
    assert torch.equal(left.tokens.hidden[0, [1, 2, 4]], hidden[0, [2, 3, 9]])
    assert left.tokens.size[0, [1, 2, 4]].tolist() == [1, 1, 1]
    assert left.tokens.size.sum() == 12
    forgetful = ap.VisionZip(0.5, contextual=0).reduce(tokens, replace(evidence, attention=attention), 3 / 12)
    assert forgetful.kept.tolist() == [[2, 3, 9]]
    assert forgetful.destination is None


# What is learnt


@torch.no_grad()
@pytest.mark.parametrize("build", [audiomae, ast])
@pytest.mark.parametrize("name", [*LEARNED, "metr"])
def test_what_was_learnt_is_saved_and_read_again(build, name: str, tmp_path, spectrogram) -> None:
    model = build().eval()
    plain = model(spectrogram).logits
    with ap.prune(model, METHODS[name]) as handle:
        teach(handle)
        expected = model(spectrogram).logits
        handle.save(tmp_path)
    with ap.prune(model, tmp_path) as again:
        assert torch.equal(model(spectrogram).logits, expected)
        assert type(again.method) is type(METHODS[name])
    assert torch.equal(model(spectrogram).logits, plain)


def test_a_step_of_training_moves_the_predictors(spectrogram) -> None:
    for name in ("dynamicvit", "spvit", "metr"):
        model = audiomae().train()
        with ap.prune(model, METHODS[name]) as handle:
            teach(handle)
            before = [p.clone() for p in handle.learned.parameters()]
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            pruned_loss(model, handle, inputs_for("audiomae")).backward()
            optimizer.step()
            moved = [not torch.equal(a, b) for a, b in zip(before, handle.learned.parameters(), strict=True)]
            assert sum(moved) > len(moved) / 2


def test_metr_without_labels_is_evit(spectrogram) -> None:
    """An encoder without a head has no classes that an exit could name."""
    encoder = audiomae().audiomae.eval()
    with ap.prune(encoder, ap.METR(0.5)) as handle:
        assert handle.learned is None
        found = encoder(spectrogram).last_hidden_state
        encoder.train()(spectrogram)
    with ap.prune(encoder.eval(), ap.EViT(0.5)):
        assert torch.equal(encoder(spectrogram).last_hidden_state, found)
    assert ap.METR(0.5).loss(learning(notes={1: {}})) is None


def test_a_clip_that_gives_up_everything_keeps_its_best_token() -> None:
    before = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    kept = torch.tensor([[0.0, 0, 0], [0, 0, 1]], requires_grad=True)
    left = one_at_least(kept, before, torch.tensor([[-3.0, -2, -1], [-1, -2, -3]]))
    assert left.tolist() == [[0, 1, 0], [0, 0, 1]]
    left.sum().backward()
    assert kept.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("name", ["dynamicvit", "spvit"])
def test_training_survives_a_predictor_that_gives_up_everything(name: str) -> None:
    model = audiomae().train()
    with ap.prune(model, METHODS[name]) as handle, torch.no_grad():
        teach(handle)
        for key, parameter in handle.learned.named_parameters():
            if key.endswith("leave.4.bias"):
                parameter.copy_(torch.tensor([-50.0, 50.0]))
        with torch.enable_grad():
            loss = pruned_loss(model, handle, inputs_for("audiomae"))
            loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# Draws and policies


def test_a_draw_is_zero_or_one_and_its_gradient_the_softmaxs() -> None:
    given = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1))
    weights = torch.arange(12.0).reshape(2, 6)
    one, other = (given.clone().requires_grad_() for _ in range(2))
    torch.manual_seed(4)
    drawn = straight_through(one.log_softmax(dim=-1))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    (drawn * weights).sum().backward()
    torch.manual_seed(4)
    noise = -torch.empty_like(given).exponential_().log()
    soft = (other.log_softmax(dim=-1) + noise).softmax(dim=-1)[..., 0]
    assert torch.equal(drawn, (soft > 0.5).float())
    (soft * weights).sum().backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_attention_by_policy_has_gradients_to_the_policy() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(1, 2, 5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    policy = torch.tensor([[1.0, 0.3, 0.0, 1.0, 0.6]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: attend_by_policy(query, key, value, 0.5, None, p), (policy,))
    # A key's value moves with its policy for every query but itself.
    context = attend_by_policy(query, key, value, 0.5, None, policy)
    (gradient,) = torch.autograd.grad(context[0, :, 2].sum(), policy)
    assert gradient[0, 2] == 0
    assert (gradient[0, [0, 1, 3, 4]] != 0).all()


def test_attention_by_policy_is_attention_among_the_kept() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 2, 6, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    kept = [0, 2, 3]
    policy = torch.zeros(1, 6)
    policy[0, kept] = 1
    among = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, kept], key[:, :, kept], value[:, :, kept], scale=0.5
    )
    found = attend_by_policy(query, key, value, 0.5, None, policy)[:, :, kept]
    assert torch.allclose(found, among, atol=1e-5)


# Losses


def learning(**changes) -> LossInputs:
    generator = torch.Generator().manual_seed(11)
    fields = {
        "depth": 4,
        "notes": {},
        "rates": {1: 0.7, 2: 0.5},
        "logits": torch.randn(2, 3, generator=generator),
        "labels": torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]),
        "tokens": torch.randn(2, 4, 5, generator=generator),
        "policy": torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]),
        "teacher_logits": torch.randn(2, 3, generator=generator),
        "teacher_tokens": torch.randn(2, 4, 5, generator=generator),
    }
    return LossInputs(**{**fields, **changes})


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def kl(given: list[float], other: list[float]) -> float:
    """KL(given ‖ other) of two distributions."""
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(given, other, strict=True))


SHARES = {1: {"share": torch.tensor([0.5, 0.9])}, 2: {"share": torch.tensor([0.35, 0.15])}}
RATIO = ((0.5 - 0.7) ** 2 / 2 + (0.9 - 0.7) ** 2 / 2 + 0 / 2 + (0.15 - 0.35) ** 2 / 2) / 2


def from_teacher(given: LossInputs) -> float:
    pairs = zip(given.teacher_logits.tolist(), given.logits.tolist(), strict=True)
    return sum(kl(softmax(teacher), softmax(model)) for teacher, model in pairs) / 2


def test_the_loss_of_dynamicvit() -> None:
    given = learning(notes=SHARES)
    kept = [(b, i) for b in range(2) for i in range(4) if given.policy[b, i] > 0.5]
    squares = [((given.tokens[b, i] - given.teacher_tokens[b, i]) ** 2).mean().item() for b, i in kept]
    expected = 3.0 * RATIO + 0.25 * (from_teacher(given) + sum(squares) / len(squares))
    assert ap.DynamicViT(0.7, ratio=3.0, distillation=0.25).loss(given).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_spvit() -> None:
    given = learning(notes=SHARES)
    expected = 3.0 * RATIO + 0.25 * from_teacher(given)
    assert ap.SPViT(0.7, ratio=3.0, distillation=0.25).loss(given).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_fastast() -> None:
    given = learning()
    total = 0.0
    for logits, teacher in zip(given.logits.tolist(), given.teacher_logits.tolist(), strict=True):
        for x, t in zip(logits, teacher, strict=True):
            p, q = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(-t))
            total -= q * math.log(p) + (1 - q) * math.log(1 - p)
    assert ap.FastAST(0.7).loss(given).item() == pytest.approx(0.1 * total / 6, rel=1e-5)


def test_the_loss_of_metr_leaves_the_final_answer_alone() -> None:
    generator = torch.Generator().manual_seed(12)
    exits = [torch.randn(2, 3, generator=generator, requires_grad=True) for _ in range(2)]
    logits = torch.randn(2, 3, generator=generator, requires_grad=True)
    # Labels of several classes count as a distribution.
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    given = learning(notes={1: {"exit": exits[0]}, 2: {"exit": exits[1]}}, logits=logits, labels=labels)
    expected = 0.0
    for exit in exits:
        for i, share in enumerate([[1, 0, 0], [0, 0.5, 0.5]]):
            answer, final = softmax(exit[i].tolist()), softmax(logits[i].tolist())
            cross = -sum(s * math.log(p) for s, p in zip(share, answer, strict=True))
            expected += (cross + kl(final, answer)) / 2
    loss = ap.METR(0.5, weight=0.4).loss(given)
    assert loss.item() == pytest.approx(0.4 * expected / 2, rel=1e-5)
    loss.backward()
    assert logits.grad is None
    assert all((exit.grad != 0).any() for exit in exits)


def test_the_loss_of_avit() -> None:
    one = {"running": [1.0, 1.0], "remainder": [0.1, 0.0], "halting": [0.2, 0.4]}
    two = {"running": [0.5, 0.75], "remainder": [0.2, 0.3], "halting": [0.6, 0.4]}
    last = {"running": [0.25, 0.5], "remainder": [0.1, 0.1]}
    stages = enumerate((one, two, last), start=1)
    notes = {layer: {name: torch.tensor(values) for name, values in stage.items()} for layer, stage in stages}
    given = learning(notes=notes, rates={1: 0.5, 2: 0.5})
    ponder = ((1.0 + 0.1 + 0.5 + 0.2 + 0.25 + 0.1) + (1.0 + 0.0 + 0.75 + 0.3 + 0.5 + 0.1)) / 2
    halting = [0.3 / 0.8, 0.5 / 0.8]
    prior = softmax([-0.5 * (block - 0.5 * 4) ** 2 for block in (1, 2)])
    expected = 0.01 * ponder + 0.3 * kl(prior, halting)
    assert ap.AViT(0.5, ponder=0.01, prior=0.3).loss(given).item() == pytest.approx(expected, rel=1e-5)


# What training computes is what is left afterwards


@pytest.fixture
def without_epsilon(monkeypatch) -> None:
    """The paper's ε lets a little of what was given up through: without it, nothing."""

    def attend(query, key, value, scaling, mask, policy, dropout):
        gone = (policy < 0.5)[:, None, None, :] & ~torch.eye(policy.shape[1], dtype=torch.bool)
        logits = query @ key.transpose(2, 3) * scaling
        return logits.masked_fill(gone, float("-inf")).softmax(dim=-1) @ value

    monkeypatch.setattr(attention, "attend_by_policy", attend)


@pytest.mark.usefixtures("without_epsilon")
@pytest.mark.parametrize("build", [audiomae, ast])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_soft_pruning_computes_the_same_in_training(build, scale: float, monkeypatch, spectrogram) -> None:
    """Tokens that are given up but carried along count for nothing: with the draws fixed, answers are the same.

    scale: with a great one predictors are so sure of themselves that no dropped token has a probability to speak of.
    """
    monkeypatch.setattr(spvit, "straight_through", lambda p: (p[..., 0] >= p[..., 1]).float())
    model = build().double()
    with torch.no_grad(), ap.prune(model, ap.SPViT(0.7)) as handle:
        teach(handle)
        for name, parameter in handle.learned.named_parameters():
            if ".leave.4." in name:
                parameter *= scale
        chosen, carried = (model.train(mode)(spectrogram.double()).logits for mode in (False, True))
        slow, _ = pruned_forward(model.eval(), {"input_values": spectrogram.double()}, handle.method, handle.learned)
    assert torch.allclose(chosen, slow, rtol=0, atol=1e-9)
    assert torch.allclose(chosen, carried, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("without_epsilon")
@pytest.mark.parametrize("build", [audiomae, ast])
def test_dynamicvit_computes_the_same_in_training(build, monkeypatch, spectrogram) -> None:
    def best_half(p: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(p[..., 0]).scatter(1, ops.top_k(p[..., 0], 32), 1.0)

    monkeypatch.setattr(dynamicvit, "straight_through", best_half)
    model = build().double()
    with torch.no_grad(), ap.prune(model, ap.DynamicViT(0.5, layers=(1,))) as handle:
        teach(handle)
        chosen, carried = (model.train(mode)(spectrogram.double()).logits for mode in (False, True))
    assert torch.allclose(chosen, carried, rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_sound_decides_how_much_is_kept(spectrogram) -> None:
    """In the matrix these settings make tokens stop at several depths, and rows of a batch differ in length."""
    for name in ("avit", "avit-slow", "spvit", "ats"):
        model = audiomae().eval()
        with ap.prune(model, METHODS[name]) as handle, ap.trace(model) as record:
            teach(handle)
            model(spectrogram)
        counts = [(stage >= 0).sum(1).tolist() for stage in record.kept]
        assert all(sum(later) < sum(earlier) for earlier, later in itertools.pairwise(counts))
        assert any(len(set(stage)) > 1 for stage in counts)
