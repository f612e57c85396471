"""eval-asr: manifests, word errors, the cut window, seconds, resuming, and the command, with a tiny random Whisper."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

import audioprune as ap
from audioprune.adapters.blocks.transcriber import MergedEncoderOutput
from audioprune.core.settings import parse_method
from audioprune.data import DataError
from audioprune.methods.chain import Chain
from audioprune.timing import in_turns
from audioprune.transcribing import evaluation as evaluation_module
from audioprune.transcribing.contenders import Contender, contenders, parse_contender
from audioprune.transcribing.evaluation import ROWS, Evaluation
from audioprune.transcribing.evaluation_log import EvaluationError
from audioprune.transcribing.evaluation_report import captions, figure, markdown, refusals, tables
from audioprune.transcribing.evaluation_table import clip_rows, method_row
from audioprune.transcribing.manifest import Utterance, read_manifest
from audioprune.transcribing.speech_model import SpeechModel, open_speech_model
from audioprune.transcribing.timing import EncoderClock, threads, tokens_left
from audioprune.transcribing.window_cut import WindowCut, clip_frames
from audioprune.transcribing.word_errors import WordErrors, is_runaway, normalizer, total, word_errors

from .conftest import tone

jiwer = pytest.importorskip("jiwer")

WINDOW = 50
"""Tokens of the tiny model's window, 1 s."""
WORDS = 20
"""Words of its vocabulary; the last says that there are no timestamps, and the timestamps follow."""


def tiny_model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=WORDS + WINDOW + 1,
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=WINDOW,
        max_target_positions=40,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed_positions" not in name:
                weight.mul_(16)  # so that what is heard makes a difference
    generation = {"no_timestamps_token_id": WORDS - 1, "is_multilingual": False, "max_length": 12}
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    model.generation_config = GenerationConfig(**generation, **tokens)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    times = [f"<|{0.02 * i:.2f}|>" for i in range(WINDOW + 1)]
    words = ["<|endoftext|>", "<|startoftranscript|>", *(f"word{i}" for i in range(2, WORDS - 1)), "<|notimestamps|>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, *times])}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=words[0], pad_token=words[0], unk_token=words[0]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper on disk."""
    path = tmp_path_factory.mktemp("tiny") / "tiny-whisper"
    for part in (tiny_model(), WhisperFeatureExtractor(feature_size=80, chunk_length=1), tiny_tokenizer()):
        part.save_pretrained(path)
    return path


@pytest.fixture
def loaded(folder: Path) -> SpeechModel:
    return open_speech_model(str(folder))


def write_manifest(folder: Path, seconds: dict[str, float], header: tuple[str, str] = ("path", "text")) -> Path:
    """A manifest of tones of some lengths; what is said in each is "word2 word3"."""
    folder.mkdir(exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*header, "speaker"])
        for i, (name, length) in enumerate(seconds.items()):
            soundfile.write(folder / name, tone(length, hertz=200.0 * (i + 1)), 16_000)
            lines.writerow([name, "word2, Word3", "a"])
    return folder / "manifest.csv"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "speech", {"a.wav": 0.3, "b.wav": 0.5, "c.wav": 0.9})


def evaluation(loaded: SpeechModel, manifest: Path, out: Path, *words: str, **more: Any) -> Evaluation:
    chosen = [parse_contender(word) for word in words or ("cut", "cut+10")]
    compared = contenders(chosen, more.pop("rates", ()), loaded.model)
    settings = {"threads": 1, "repeats": 1} | more
    return Evaluation(loaded, read_manifest(manifest), compared, "tiny", out, **settings)


# Manifests.


@pytest.mark.parametrize("header", [("path", "text"), ("file", "transcript"), ("audio", "sentence")])
def test_a_manifest_under_common_names(tmp_path: Path, header: tuple[str, str]) -> None:
    path = write_manifest(tmp_path / "speech", {"a.wav": 0.3, "b.wav": 0.5}, header)
    assert read_manifest(path)[1] == Utterance("b.wav", tmp_path / "speech" / "b.wav", "word2, Word3")


def test_a_limit_takes_clips_at_even_distances(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,text\n" + "".join(f"{i}.wav,a\n" for i in range(10)))
    assert [one.name for one in read_manifest(path, 3)] == ["0.wav", "3.wav", "6.wav"]
    assert len(read_manifest(path, 11)) == 10
    with pytest.raises(ValueError, match="the limit is 0"):
        read_manifest(path, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has none of the columns path, file"),
        ("path,words\na.wav,b\n", "has none of the columns text, transcript"),
        ("path,text\n", "lists no clip"),
        ("path,text\na.wav,\n", "line 2: text is blank"),
        ("path,text\na.wav,b\na.wav,b\n", "a.wav listed twice"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_manifest(path)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_manifest(tmp_path / "m.csv")


# Words.


def test_words_are_normalized_as_whisper_does() -> None:
    english = normalizer("en")
    assert english("Mr. Smith, I don't know; twenty-one!") == "mister smith i do not know 21"
    assert normalizer("german")("Zwölf, Äpfel!") == "zwölf äpfel"
    with_spelling = type("Tokenizer", (), {"english_spelling_normalizer": {"colour": "color"}})()
    assert (english("Colour"), normalizer("en", with_spelling)("Colour")) == ("colour", "color")


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c d e", 3), ("a b c", "", 3), ("", "a b", 2)],
)
def test_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    found = word_errors(reference, hypothesis)
    assert found == WordErrors(errors, len(reference.split()))


def test_the_corpus_rate_is_jiwer_s() -> None:
    references, hypotheses = ["a b c d", "e f", "g"], ["a b x", "e f", "h i j"]
    found = total([word_errors(*pair) for pair in zip(references, hypotheses, strict=True)])
    assert found.rate == jiwer.wer(references, hypotheses)


def test_runaways() -> None:
    assert not is_runaway("a " * 25, "b " * 10)
    assert is_runaway("a " * 26, "b " * 10)


# The cut window.


@torch.no_grad()
def test_a_cut_encoder_computes_on_the_clip_alone(loaded: SpeechModel) -> None:
    model: Any = loaded.model
    features = torch.randn(1, 80, 2 * WINDOW)
    features[..., 30:] = -1.0
    before, weights = model.model.encoder(features)[0], dict(model.state_dict())
    with WindowCut(5).applied(model):
        cut = model.model.encoder(features)[0]
    assert cut.shape[1] == 15 + 5
    encoder = model.model.encoder
    hidden = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(features[..., :40]))))
    hidden = hidden.transpose(1, 2) + encoder.embed_positions.weight[:20]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    torch.testing.assert_close(cut, encoder.layer_norm(hidden))
    assert torch.equal(model.model.encoder(features)[0], before)
    assert dict(model.state_dict()).keys() == weights.keys()
    assert "forward" not in vars(encoder)


@torch.no_grad()
def test_a_full_window_is_not_cut(loaded: SpeechModel) -> None:
    features = torch.randn(1, 80, 2 * WINDOW)
    before = loaded.model.model.encoder(features)[0]
    with WindowCut(5).applied(loaded.model):
        assert torch.equal(loaded.model.model.encoder(features)[0], before)


@torch.no_grad()
def test_an_error_within_leaves_the_model_whole(loaded: SpeechModel) -> None:
    encoder = loaded.model.model.encoder
    with WindowCut().applied(loaded.model), pytest.raises(RuntimeError):
        encoder(torch.randn(1, 3, 2 * WINDOW))
    assert encoder.config.max_source_positions == encoder.embed_positions.num_embeddings == WINDOW


def test_where_a_clip_ends() -> None:
    features = torch.zeros(2, 80, 100)
    features[0, :, :40], features[1, :, :20] = 1.0, 1.0
    assert clip_frames(features) == 40
    mask = torch.zeros(2, 100)
    mask[:, :60] = 1
    assert clip_frames(features, mask) == 60
    assert clip_frames(features, torch.ones(2, 300)) == 40  # of a whole recording, not of this window
    assert clip_frames(torch.zeros(1, 80, 100)) == 1
    with pytest.raises(ValueError, match="margin is -1"):
        WindowCut(-1)


# What is compared.


def test_contenders_by_word(loaded: SpeechModel) -> None:
    made = contenders([parse_contender("cut"), parse_contender("CUT+128")], (), loaded.model)
    assert [one.name for one in made] == ["unpruned", "cut", "cut+128"]
    assert made[2].settings == {"method": "cut", "margin": 128}
    with pytest.raises(ValueError, match="no method 'cutting'"):
        parse_contender("cutting")
    with pytest.raises(ValueError, match="cut: named twice"):
        contenders([WindowCut(), WindowCut()], (), loaded.model)


def test_keep_rates_are_for_words(loaded: SpeechModel, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"method": "ToFu", "keep_rate": 0.8}')
    chosen = [parse_contender("topk"), parse_contender("tofu"), parse_contender(str(tmp_path / "mine.json"))]
    made = contenders(chosen, (0.4, (0.9, 0.8)), loaded.model)
    assert [one.name for one in made] == [
        "unpruned",
        "topk 0.4",
        "topk 0.9,0.8",
        "tofu 0.4",
        "tofu 0.9,0.8",
        "mine",
    ]
    assert made[1].method == ap.TopK(0.4)
    assert made[3].refused is not None
    assert made[5].method == ap.ToFu(0.8)
    assert contenders([parse_method("topk")], (), loaded.model)[1].method == ap.TopK(0.7)


def test_methods_as_json(loaded: SpeechModel) -> None:
    several = '{"method": [{"method": "PaddingMerge"}, {"method": "AToMe", "keep_rate": 0.9, "layers": "all"}]}'
    words = ['{"method": "AToMe", "keep_rate": 0.9}', '{"method": "AToMe", "keep_rate": 0.8}', several]
    made = contenders([parse_contender(word) for word in words], (0.5,), loaded.model)
    assert [one.name for one in made[1:]] == [
        "AToMe(0.9)",
        "AToMe(0.8)",
        "PaddingMerge(0.04) + AToMe(0.9, layers='all')",
    ]
    assert made[3].method == Chain.of([ap.PaddingMerge(), ap.AToMe(0.9, layers="all")])
    assert made[3].settings["method"][1]["keep_rate"] == 0.9
    assert parse_contender(several[len('{"method": ') : -1]) == parse_contender(several)
    for wrong, said in [("{", "not JSON"), ('{"method": "No"}', "expected"), ('{"method": "ToMe"}', "missing 1")]:
        with pytest.raises(ValueError, match=f"--method: .*{said}"):
            parse_contender(wrong)


def test_padding_has_a_rate_of_its_own(loaded: SpeechModel) -> None:
    made = contenders([parse_contender("padding"), parse_contender("atome")], (0.9,), loaded.model)
    assert [(one.name, one.method) for one in made[1:]] == [
        ("padding", ap.PaddingMerge()),
        ("atome 0.9", ap.AToMe(0.9)),
    ]


def test_recommended_is_what_the_model_is_recommended(loaded: SpeechModel) -> None:
    made = contenders([parse_contender("recommended")], (0.9,), loaded.model)[1]
    assert made == Contender("recommended", ap.recommended(loaded.model))
    assert made.method == ap.PaddingMerge()


# Seconds and tokens.


def test_the_clock_counts_what_a_method_leaves(loaded: SpeechModel) -> None:
    padding = Contender("padding", ap.PaddingMerge(0.2, margin=2))
    with padding.attached(loaded.model), EncoderClock(loaded.model) as clock:
        loaded([tone(0.3), tone(0.6)])
    # The window at a clip's end hears a little of it.
    assert clock.tokens == pytest.approx([15 + 2 + 7, 30 + 2 + 4], abs=2)
    assert ap.handle(loaded.model) is None


def test_the_clock_counts_the_encoder(loaded: SpeechModel) -> None:
    with threads(1), WindowCut(2).applied(loaded.model), EncoderClock(loaded.model) as clock:
        loaded([tone(0.3), tone(0.6)])
    assert clock.tokens == [32, 32]
    assert 0 < clock.seconds < 10
    assert not loaded.model.model.encoder._forward_hooks
    assert not loaded.model.model.encoder._forward_pre_hooks


def test_tokens_left_of_an_output() -> None:
    full, tokens = torch.zeros(2, 8, 4), torch.zeros(2, 3, 4)
    size = torch.tensor([[6.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    assert tokens_left(BaseModelOutput(full)) == [8, 8]
    assert tokens_left(MergedEncoderOutput(full, tokens=tokens, size=size)) == [2, 3]
    assert tokens_left(MergedEncoderOutput(full, tokens=tokens)) == [3, 3]


def test_all_take_turns() -> None:
    seen: list[int] = []
    in_turns([lambda i=i: seen.append(i) for i in range(4)], rounds=6, seed="a")
    rounds = [seen[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


# The speech model.


def test_long_clips_are_read_window_by_window(loaded: SpeechModel) -> None:
    with EncoderClock(loaded.model) as clock:
        (text,) = loaded([tone(2.5)])
    assert clock.tokens == [WINDOW]
    assert len(clock._counts) >= 3
    assert "<|" not in text
    with pytest.raises(ValueError, match="must be alone"):
        loaded([tone(2.5), tone(0.5)])


def test_other_models_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_speech_model("./nowhere")
    with pytest.raises(ValueError, match="beams is 0"):
        open_speech_model(str(folder), beams=0)
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(ValueError, match="is of the kind .*but this takes a Whisper with its decoder"):
        open_speech_model(str(tmp_path))


# Figures.


def row(clip: str, **results: tuple[str, float]) -> dict[str, Any]:
    found = {
        name: {"text": text, "tokens": 10.0, "encoder_seconds": [took, took], "whole_seconds": [2 * took]}
        for name, (text, took) in results.items()
    }
    return {"clip": clip, "reference": "a b c d", "seconds": 4.0, "results": found}


def test_figures_of_a_method() -> None:
    rows = [
        row("1", unpruned=("A, b c d.", 1.0), cut=("a b c d", 0.5)),
        row("2", unpruned=("a b c", 1.0), cut=("x " * 12, 0.25)),
    ]
    clips = clip_rows(rows, normalizer(None))
    found = method_row(Contender("cut", WindowCut()), clips)
    assert found["word_error_rate"] == 12 / 8
    assert found["change"]["mean"] == pytest.approx(11 / 8)
    assert found["change"]["low"] <= found["change"]["mean"] <= found["change"]["high"]
    assert found["error_to_unpruned"] == 12 / 7
    assert (found["same"], found["runaways"], found["tokens"]) == (1, 1, 10)
    assert found["encoder"]["faster"] == {"mean": 3.0, "std": pytest.approx(2**0.5)}
    assert found["encoder"]["seconds"] == 0.375
    assert found["real_time_factor"] == pytest.approx(1.5 / 8)
    unpruned = method_row(Contender("unpruned"), clips)
    assert (unpruned["word_error_rate"], unpruned["same"]) == (1 / 8, 2)
    assert unpruned["change"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


# Runs.


def test_a_run_writes_rows_table_and_picture(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done: list[int] = []
    result = evaluation(loaded, manifest, out, "cut", "cut+10", repeats=2).run(done.append)
    assert sum(done) == 3
    assert [one["method"] for one in result["rows"]] == ["unpruned", "cut", "cut+10"]
    assert [one["tokens"] for one in result["rows"]] == pytest.approx([50, (15 + 25 + 45) / 3, (25 + 35 + 50) / 3])
    unpruned = result["rows"][0]
    assert (unpruned["same"], unpruned["runaways"], unpruned["error_to_unpruned"]) == (3, 0, 0)
    assert unpruned["encoder"]["faster"] == {"mean": 1.0, "std": 0.0}
    assert json.loads((out / "eval-asr.json").read_text()) == result
    assert (out / "eval-asr.md").read_text() == markdown(result) + "\n"
    assert (out / "eval-asr.png").stat().st_size > 5000
    journal = [json.loads(line) for line in (out / ROWS).read_text().splitlines()]
    assert [one.get("clip") for one in journal] == [None, "a.wav", "b.wav", "c.wav"]
    assert len(journal[1]["results"]["cut"]["whole_seconds"]) == 2


def test_texts_are_those_of_plain_transformers(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    result = evaluation(loaded, manifest, tmp_path / "out").run()
    texts = [clip["results"]["unpruned"]["text"] for clip in result["by_clip"]]
    for text, one in zip(texts, read_manifest(manifest), strict=True):
        features = loaded.extractor(soundfile.read(one.path)[0], sampling_rate=16_000, return_tensors="pt")
        ids = loaded.model.generate(features.input_features)
        words = loaded.tokenizer.decode(ids[0], skip_special_tokens=True).split()
        assert [word for word in words if "<|" not in word] == text.split()
    assert len(set(texts)) > 1


def test_batches_give_the_same_texts(loaded: SpeechModel, tmp_path: Path) -> None:
    lengths = {"a.wav": 0.3, "b.wav": 0.5, "long.wav": 1.7, "c.wav": 0.9}
    manifest = write_manifest(tmp_path / "speech", lengths)
    alone = evaluation(loaded, manifest, tmp_path / "alone").run()
    together = evaluation(loaded, manifest, tmp_path / "together", batch_size=2).run()
    for one, other in zip(alone["by_clip"], together["by_clip"], strict=True):
        assert one["clip"] == other["clip"]
        assert one["results"]["unpruned"]["text"] == other["results"]["unpruned"]["text"]


def test_a_clip_that_cannot_be_read_is_left_out(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    manifest.with_name("b.wav").write_bytes(b"RIFF")
    manifest.with_name("c.wav").unlink()
    said: list[str] = []
    done: list[int] = []
    result = evaluation(loaded, manifest, tmp_path / "out").run(done.append, said.append)
    assert (result["clips"], sum(done)) == (1, 3)
    assert [one["clip"] for one in result["failed"]] == ["b.wav", "c.wav"]
    assert "no such file" in said[1]
    assert "- left out because they could not be decoded: 2 of the clips" in markdown(result)


def test_no_clip_at_all(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    for name in "abc":
        manifest.with_name(f"{name}.wav").unlink()
    result = evaluation(loaded, manifest, tmp_path / "out").run()
    assert (result["clips"], len(result["failed"])) == (0, 3)
    assert [len(rows) for rows in tables(result)] == [1, 1]


def test_a_stopped_run_continues(loaded: SpeechModel, manifest: Path, tmp_path: Path, monkeypatch) -> None:
    out, own = tmp_path / "out", Evaluation._transcribe
    heard: list[str] = []

    def stopping(self: Evaluation, batch: Any, able: Any) -> Any:
        heard.append(batch[0][0].name)
        if len(heard) == 2:
            raise KeyboardInterrupt
        return own(self, batch, able)

    monkeypatch.setattr(Evaluation, "_transcribe", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluation(loaded, manifest, out).run()
    assert len((out / ROWS).read_text().splitlines()) == 2
    result = evaluation(loaded, manifest, out).run()
    assert heard == ["a.wav", "b.wav", "b.wav", "c.wav"]
    assert result["clips"] == 3
    evaluation(loaded, manifest, out).run()
    assert len(heard) == 4


def test_rows_of_other_settings_are_refused(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluation(loaded, manifest, out).run()
    with pytest.raises(EvaluationError, match=r"begun with methods.cut\+10="):
        evaluation(loaded, manifest, out, "cut").run()
    with pytest.raises(EvaluationError, match=r"begun with repeats=1 \(not 2\)"):
        evaluation(loaded, manifest, out, repeats=2).run()
    with pytest.raises(EvaluationError, match="begun with machine.threads=1"):
        evaluation(loaded, manifest, out, threads=2).run()
    manifest.write_text(manifest.read_text().replace("Word3", "Word4"))
    with pytest.raises(EvaluationError, match="the transcript of a.wav was 'word2, Word3', and is now"):
        evaluation(loaded, manifest, out).run()
    (out / ROWS).write_text("hello\n")
    with pytest.raises(EvaluationError, match="line 1 is not a row of this command"):
        evaluation(loaded, manifest, out).run()


def test_what_the_model_refuses_is_left_out(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    result = evaluation(loaded, manifest, tmp_path / "out", "cut", "tofu", rates=(0.2,)).run()
    assert [one["method"] for one in result["rows"] if "refused" in one] == ["tofu 0.2"]
    assert refusals(result)[0].startswith("tofu 0.2: ")
    assert f"- left out {refusals(result)[0]}" in markdown(result)
    assert result["clips"] == 3


@pytest.mark.parametrize(("repeats", "transcriptions"), [(1, 1), (2, 3)])
def test_one_run_is_enough_for_words_and_seconds(
    repeats: int, transcriptions: int, loaded: SpeechModel, manifest: Path, tmp_path: Path, monkeypatch
) -> None:
    calls, transcribe = [], SpeechModel.__call__
    monkeypatch.setattr(SpeechModel, "__call__", lambda *a, **k: calls.append(k) or transcribe(*a, **k))
    result = evaluation(loaded, manifest, tmp_path / "out", "cut", repeats=repeats).run()
    assert len([k for k in calls if not k]) == 3 * 2 * transcriptions
    for clip in result["by_clip"]:
        assert all(len(one["whole_seconds"]) == repeats for one in clip["results"].values())


def test_long_transcriptions_are_not_repeated(loaded: SpeechModel, manifest: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(evaluation_module, "PATIENCE", 0.0)
    result = evaluation(loaded, manifest, tmp_path / "out", repeats=3).run()
    assert len(result["by_clip"][0]["results"]["cut"]["whole_seconds"]) == 1


def test_runaways_are_marked(loaded: SpeechModel, manifest: Path, tmp_path: Path) -> None:
    result = evaluation(loaded, manifest, tmp_path / "out").run()
    result["rows"][1] |= {"runaways": 2, "word_error_rate": 50.0}
    drawn = figure(result)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts == ["unpruned", "cut\n2 runaways", "cut+10"]
    assert drawn.axes[0].get_yscale() == "log"
    assert any(line.startswith("cut: ") for line in captions(result))


# The command line.


def test_the_command_line(run, folder: Path, manifest: Path) -> None:
    words = ("eval-asr", "--manifest", manifest, "--model", folder, "--threads", 1, "--repeats", 1, "--out", "out")
    code, out, err = run(*words, "--method", "cut", "--method", "cut+10")
    assert code == 0, err
    assert "3 clips, unpruned, cut, cut+10" in err
    assert "cut+10" in out
    code, out, err = run(*words, "--method", "cut", "--method", "cut+10", "--json", "--limit", 2)
    assert code == 0, err
    result = json.loads(out)
    assert (result["clips"], result["model"]) == (2, folder.name)
    assert result == json.loads(Path("out/eval-asr.json").read_text())
    assert result["command"].startswith("audioprune eval-asr --manifest")
    assert {"torch", "transformers", "jiwer"} < set(result["versions"])


def test_exit_codes(run, folder: Path, manifest: Path, monkeypatch) -> None:
    words = ("eval-asr", "--manifest", manifest, "--model", folder, "--threads", 1, "--repeats", 1, "--out", "out")
    for more, message in [
        (("--method", "magic"), "no method 'magic'"),
        (("--keep-rate", "half"), "--keep-rate is 'half'"),
        (("--manifest", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--model", "./nowhere"), "nowhere: no such file or folder"),
        (("--dtype", "int8"), "--dtype is 'int8'"),
        (("--device", "tpu"), "--device is 'tpu'"),
    ]:
        code, _, err = run(*words, *more)
        assert code == 2, more
        assert message in err
    manifest.with_name("b.wav").write_bytes(b"RIFF")
    code, _, err = run(*words, "--method", "cut")
    assert code == 1
    assert "left out" in err
    code, _, err = run(*words, "--method", "cut", "--beams", 2)
    assert code == 2
    assert "begun with beams=1 (not 2)" in err


def test_without_jiwer_the_extra_is_named(run, folder: Path, manifest: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    code, _, err = run("eval-asr", "--manifest", manifest, "--model", folder, "--out", "out")
    assert code == 2
    assert "this needs jiwer: pip install 'audioprune[eval-asr]'" in err


# Real weights and real speech.


@pytest.fixture
def real() -> Path:
    folder = Path(os.environ.get("AUDIOPRUNE_WHISPER", "nowhere"))
    if not (folder / "config.json").exists():
        pytest.skip("AUDIOPRUNE_WHISPER names no folder of a Whisper")
    return folder


def test_a_real_whisper_and_its_padding(real: Path, tmp_path: Path) -> None:
    assets = Path(ap.__file__).parent / "assets"
    waveform, rate = soundfile.read(assets / "talk.ogg")
    soundfile.write(tmp_path / "talk.wav", waveform, rate)
    (tmp_path / "m.csv").write_text("path,text\ntalk.wav,one two three\n")
    model = open_speech_model(str(real))
    result = evaluation(model, tmp_path / "m.csv", tmp_path / "out", "padding", "cut+128").run()
    unpruned, padding, cut = result["rows"]
    tokens = 50 * len(waveform) / rate
    assert unpruned["tokens"] == 1500
    assert padding["tokens"] == pytest.approx(tokens + 25 + 0.04 * (1500 - 25 - tokens), abs=4)
    assert cut["tokens"] == pytest.approx(tokens + 128, abs=2)
    assert min(padding["encoder"]["faster"]["mean"], cut["encoder"]["faster"]["mean"]) > 1.2
    assert padding["runaways"] == 0
