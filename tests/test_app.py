"""The page of `audioprune app`: what it says of a sound, and how it is served. test_app_browser.py looks at it."""

from __future__ import annotations

import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import audioprune as ap
from audioprune.app.answer import Comparison, compare
from audioprune.app.bars import bars, duration, faster, magnitude
from audioprune.app.pictures import picture, timeline_picture
from audioprune.app.server import disable_requests, free_port, is_local
from audioprune.app.studio import Studio
from audioprune.audio.files import AudioError
from audioprune.cli.app import build, choices
from audioprune.methods.names import words
from audioprune.tagging.tagger import Tagger
from audioprune.timing import Ratio
from audioprune.transcribing.options import Options
from audioprune.transcribing.parts import WhisperParts
from audioprune.transcribing.recognizer import Recognizer
from audioprune.transcribing.transcriber import Transcriber

from .conftest import tone
from .families import audiomae
from .media import Format, encode
from .transcribers import save

WINDOW = ap.LogMel(128).max_seconds
QUICK = 0.01


@pytest.fixture
def tagger() -> Tagger:
    return Tagger(audiomae().eval(), ap.LogMel(128))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "tone.wav", tone(1.2), 16_000)
    return tmp_path / "tone.wav"


@pytest.fixture
def answer(tagger: Tagger, sound: Path) -> Comparison:
    return compare(tagger, sound, ap.TopK(0.5), seconds=QUICK)


def test_both_sides(tagger: Tagger, sound: Path) -> None:
    before = tagger.probabilities([ap.load_audio(sound).waveform])
    answer = compare(tagger, sound, ap.TopK(0.5), seconds=QUICK)
    full, pruned = answer.unpruned, answer.pruned
    assert (answer.name, answer.method, answer.stages, answer.notes) == ("tone.wav", "TopK(0.5)", 3, ())
    assert full.tokens == (64, 64, 64, 64)
    assert pruned.tokens == (64, 32, 16, 8)
    assert full.macs == ap.macs(tagger.model)
    with ap.prune(tagger.model, ap.TopK(0.5)):
        assert pruned.macs == ap.macs(tagger.model)
        expected = tagger.probabilities([ap.load_audio(sound).waveform])[0]
    for side in (full, pruned):
        assert sum(side.labels.values()) == pytest.approx(1)
        assert list(side.labels.values()) == sorted(side.labels.values(), reverse=True)
        assert side.milliseconds > 0
    assert pruned.top == f"LABEL_{int(expected.argmax())}"
    assert answer.agrees == (full.top == pruned.top)
    assert ap.handle(tagger.model) is None, "the model is as it was"
    torch.testing.assert_close(tagger.probabilities([ap.load_audio(sound).waveform]), before, rtol=0, atol=0)


def test_agreement_is_of_the_top_label(answer: Comparison) -> None:
    cat = replace(answer.unpruned, labels={"cat": 0.6, "dog": 0.4})
    unsure = replace(cat, labels={"cat": 0.5, "dog": 0.49})
    dog = replace(cat, labels={"dog": 0.6, "cat": 0.4})
    assert replace(answer, unpruned=cat, pruned=unsure).agrees
    assert not replace(answer, unpruned=cat, pruned=dog).agrees


def test_several_labels_need_not_sum_to_one(tagger: Tagger, sound: Path) -> None:
    tagger.model.config.problem_type = "multi_label_classification"
    answer = compare(tagger, sound, ap.TopK(1.0), seconds=QUICK)
    assert answer.unpruned.labels == answer.pruned.labels
    assert sum(answer.unpruned.labels.values()) > 1.5
    assert answer.stages == 0


def test_where_the_sound_decides_the_tokens_are_those_that_stayed(tagger: Tagger, sound: Path) -> None:
    answer = compare(tagger, sound, ap.ATS(0.6), seconds=QUICK)
    assert all(a >= b for a, b in zip(answer.pruned.tokens, answer.pruned.tokens[1:]))
    assert answer.pruned.tokens[-1] == len(answer.record.kept[-1][0].unique())
    assert all(a <= b for a, b in zip(answer.pruned.tokens[1:], ap.ATS(0.6).counts(64, 4)[1:]))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (ap.TopK(0.5), "After the attention of block 3: 16 of 64 patches kept"),
        (ap.ToMe(0.5), "After the attention of block 3: 64 patches in 16 tokens"),
    ],
)
def test_pictures_of_the_stages(tagger: Tagger, sound: Path, method: ap.Method, said: str) -> None:
    answer = compare(tagger, sound, method, seconds=QUICK)
    drawn = [picture(answer, stage) for stage in range(answer.stages + 1)]
    assert all(png.startswith(b"\x89PNG") for png, _ in drawn)
    assert len({png for png, _ in drawn}) == 4, "no two look alike"
    assert drawn[0][1] == "The whole input: 64 patches, 8 in time × 8 in frequency"
    assert drawn[2][1] == said


def broken(folder: Path) -> dict[str, Path]:
    """Files that no model can hear."""
    (folder / "corrupt.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt nonsense")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "nothing.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "short.wav", tone(0.02), 16_000)
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    return {path.stem: path for path in folder.glob("*.wav")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("corrupt", "cannot be decoded as audio"),
        ("empty", "the file is empty"),
        ("nothing", "contains no samples"),
        ("short", "20 ms is too short"),
        ("nan", "NaN or infinite"),
    ],
)
def test_what_cannot_be_heard(tagger: Tagger, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ap.AudioError, match=message):
        compare(tagger, broken(tmp_path)[name], ap.TopK(0.5), seconds=QUICK)
    assert ap.handle(tagger.model) is None


def test_an_answer_that_is_not_finite(tagger: Tagger, sound: Path) -> None:
    with torch.no_grad():
        next(tagger.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        compare(tagger, sound, ap.TopK(0.5), seconds=QUICK)


@pytest.mark.parametrize(
    ("samples", "rate", "notes"),
    [
        (tone(1.2), 16_000, []),
        (tone(18.0), 16_000, [r"Heard whole: 18\.0 s in 27 windows\. The labels are the mean over them"]),
        (np.zeros(64_000), 16_000, ["This sound is silent"]),
        (np.zeros(19_200), 16_000, ["This sound is silent"]),
        (np.full(19_200, 0.5), 16_000, ["This sound is silent"]),
        (
            np.concatenate([np.zeros(32_000), tone(1.0)]),
            16_000,
            [r"in 4 windows \(2 of them silent, which do not count\)"],
        ),
        (tone(0.05), 16_000, [r"Only 0.05 s of sound; the rest of the model's 1.3 s is padding"]),
        (tone(1.2, channels=2), 16_000, ["2 channels; the model gets their mean"]),
        (tone(1.2, rate=8000), 8000, ["Sampled at 8 kHz: the sound has nothing above 4 kHz"]),
        (tone(1.2, rate=44_100), 44_100, []),
    ],
)
def test_remarks(tagger: Tagger, tmp_path: Path, samples: np.ndarray, rate: int, notes: list[str]) -> None:
    soundfile.write(tmp_path / "a.wav", samples, rate)
    found = compare(tagger, tmp_path / "a.wav", ap.TopK(0.5), seconds=QUICK).notes
    assert len(found) == len(notes)
    assert all(re.search(note, sentence) for note, sentence in zip(notes, found))


def test_a_long_sound_is_heard_whole_on_both_sides(tagger: Tagger, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([tone(2.0), tone(3.0, hertz=3000.0)]), 16_000)
    whole = tagger.timeline(path, 5.0).pooled()
    answer = compare(tagger, path, ap.TopK(0.5), seconds=QUICK)
    assert answer.timeline is not None
    assert answer.unpruned.labels[answer.unpruned.top] == pytest.approx(float(whole.max()))
    assert answer.pruned.labels[answer.pruned.top] == pytest.approx(float(answer.timeline.pooled().max()))
    assert answer.span == answer.timeline.clearest()
    part = ap.load_audio(path, max_seconds=WINDOW, start_seconds=answer.span[0]).waveform
    np.testing.assert_allclose(answer.log_mel, tagger.front([part])[0].numpy())
    assert timeline_picture(answer).startswith(b"\x89PNG")
    tagger.windows = None
    assert "the first 1.3 s of 5.0 s" in compare(tagger, path, ap.TopK(0.5), seconds=QUICK).notes[0]


def test_a_recording_of_a_phone(tagger: Tagger, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra media (PyAV) is not installed")
    path = encode(tmp_path / "phone.m4a", tone(1.2, 8000), Format("aac", rate=8000))
    found = compare(tagger, path, ap.TopK(0.5), seconds=QUICK)
    assert found.heard_seconds == pytest.approx(1.2, abs=1e-3)
    assert [note.split(";")[0].split(":")[0] for note in found.notes] == ["2 channels", "Sampled at 8 kHz"]


def test_threads_take_turns(tagger: Tagger, sound: Path, tmp_path: Path) -> None:
    """Twenty answers at once, some to sounds that cannot be heard, are those that each gives alone."""
    opened: list[str] = []

    def open_model(name: str) -> Tagger:
        opened.append(name)
        return tagger

    studio = Studio(open_model, lambda name, rate, score, model: ap.TopK(rate, score=score or "attention"))
    rates, corrupt = [0.3, 0.5, 0.7, 0.9], broken(tmp_path)["corrupt"]
    alone = {rate: compare(tagger, sound, ap.TopK(rate), seconds=QUICK) for rate in rates}

    def ask(number: int) -> tuple[float, Comparison | None]:
        rate = rates[number % 4]
        try:
            return rate, studio.compare(corrupt if number % 5 == 4 else sound, "any", "topk", rate, None)
        except ap.AudioError:
            return rate, None

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(10)))
    assert sum(answer is None for _, answer in answers) == 2
    for rate, answer in answers:
        if answer is not None:
            assert answer.pruned.tokens == alone[rate].pruned.tokens
            assert answer.pruned.labels == alone[rate].pruned.labels
            assert answer.unpruned.labels == alone[rate].unpruned.labels
    assert opened == ["any"], "a model is loaded once"
    assert ap.handle(tagger.model) is None


def test_a_model_that_cannot_be_loaded_is_tried_again(tagger: Tagger) -> None:
    tries: list[str] = []

    def open_model(name: str) -> Tagger:
        tries.append(name)
        if len(tries) == 1:
            raise OSError("no network")
        return tagger

    studio = Studio(open_model, build)
    with pytest.raises(OSError, match="no network"):
        studio.open("a")
    assert studio.open("a") is tagger


def test_bars_have_their_numbers(answer: Comparison) -> None:
    full = replace(answer.unpruned, tokens=(64,) * 4, macs=818_000_000, milliseconds=20.0)
    pruned = replace(full, tokens=(64, 32, 16, 8), macs=409_000_000, milliseconds=8.0)
    html = bars(replace(answer, unpruned=full, pruned=pruned, speed_up=Ratio(2.5, 2.4, 2.6)))
    for text in (
        "<div>32</div>",
        "818 M",
        "409 M · 50 %",
        "20.0 ms",
        "8.00 ms · 2.50× faster (2.40–2.60)",
        "width:40.0%",
    ):
        assert text in html
    deep = replace(answer, unpruned=replace(full, tokens=(64,) * 24), pruned=replace(full, tokens=(64,) * 23 + (7,)))
    assert bars(deep).count("<div>64</div>") == 1, "of many blocks the first and the last are numbered"
    assert "<div>7</div>" in bars(deep)


@pytest.mark.parametrize(
    ("macs", "text"),
    [(999, "999"), (1_500, "1.5 k"), (999_400_000, "999 M"), (999_900_000, "1 G"), (51_500_000_000, "51.5 G")],
)
def test_magnitudes(macs: int, text: str) -> None:
    assert magnitude(macs) == text


def test_times_in_words() -> None:
    assert [duration(9.126), duration(123.46)] == ["9.13 ms", "123.5 ms"]
    assert faster(Ratio(2.0, 1.9, 2.1)) == "2.00× faster (1.90–2.10)"
    assert faster(Ratio(0.5, 0.4, 0.5)) == "2.00× slower (2.00–2.50)"
    assert faster(Ratio(1.05, 0.99, 1.1)) == "no difference"
    assert faster(Ratio(2.0, 1.0, 3.0)) == "speed not sure, the machine is busy"


def test_the_page_offers_every_method_that_needs_no_training() -> None:
    offered = {choice.name: choice for choice in choices()}
    assert list(offered) == words(trained=False)
    assert {name for name, choice in offered.items() if choice.least == 0.5} == {
        "recommended",
        "tome",
        "tofu",
        "fastast",
    }
    assert offered["topk"].scored
    assert not offered["tome"].scored
    model = audiomae()
    for choice in offered.values():
        for rate in (choice.least, 1.0):
            with ap.prune(model, build(choice.name, rate, None, model)):
                pass
    assert build("topk", 0.5, "cls", model) == ap.TopK(0.5, score="cls")
    with ap.prune(model, build("recommended", offered["recommended"].keep_rate, None, model)):
        half = ap.macs(model)
    assert half <= ap.macs(model) / 2, "its own rate is the one that leaves half of the work"


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 is in use .* --port 0"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port, "left a moment ago"
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(ValueError, match="not an address of this machine"):
        free_port("192.0.2.1", 0)


def test_who_is_local() -> None:
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.0.2.1", "somewhere")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_the_own_address_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    disable_requests("10.0.0.7")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intranet,localhost,127.0.0.1,10.0.0.7"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_without_gradio(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "audioprune.app.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = run("app")
    assert code == 2
    assert "pip install 'audioprune[app]'" in err


def test_help_teaches(run) -> None:
    code, out, _ = run("app", "--help")
    assert code == 0
    assert "--port" in out


def test_mistakes_are_told_before_anything_is_served(run) -> None:
    pytest.importorskip("gradio")
    code, _, err = run("app", "--model", "listener", "--port", "0")
    assert code == 2
    assert "audioprune ask" in err
    assert run("app", "--model", "none.pth", "--port", "0")[0] == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = run("app", "--port", taken.getsockname()[1])
    assert code == 2
    assert "is in use" in err


def test_the_page_hides_folders_and_escapes_names(answer: Comparison) -> None:
    pytest.importorskip("gradio")
    from audioprune.app.messages import reason, verdict
    from audioprune.app.page import PageState, _failure

    path = Path("/tmp/gradio/0123/<b>.wav")
    raw = ap.AudioError(f"{path}: cannot be decoded as audio (Error opening b'{path}': Format not recognised.)")
    said = reason(raw, path, "esc10")
    assert said == "<b>.wav: cannot be decoded as audio (Format not recognised.)"
    named = replace(answer, name="<i>.wav")
    before = PageState(("", "", "", 0.5, ""), named)
    assert _failure(said, before)[0].startswith("<b>&lt;b&gt;.wav")
    assert "&lt;i&gt;.wav" in _failure(said, before)[1]
    assert "&lt;i&gt;.wav · esc10 · TopK(0.5)" in verdict(named, "esc10")
    shipped = Path(ap.__file__).parent / "assets" / "listener"
    assert reason(ValueError(f"{shipped}: an audio-language model"), path, "listener").startswith("listener: an")
    assert reason(ValueError("--method topk takes no --x"), path, "esc10") == "method topk takes no x"


def test_an_error_of_ours_is_not_shown(answer: Comparison, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("gradio")
    from audioprune.app.messages import reason

    said = reason(KeyError("secret"), Path("a.wav"), "esc10")
    assert "secret" not in said
    assert "terminal" in said
    assert "secret" in capsys.readouterr().err


def test_a_keep_rate_that_was_chosen_stays() -> None:
    pytest.importorskip("gradio")
    from audioprune.app.page import _adjust

    offered = {choice.name: choice for choice in choices()}
    defaults = [choice.keep_rate for choice in offered.values()]

    def rate(name: str, before: float) -> float:
        return _adjust(offered[name], before, defaults)[0]

    assert rate("topk", 0.88) == 0.7, "nobody chose the recommended method's rate"
    assert rate("recommended", 0.7) == offered["recommended"].keep_rate
    assert rate("evit", 0.3) == 0.3
    assert rate("tome", 0.3) == 0.7, "which it does not take"


def test_the_stage_that_is_looked_at_stays() -> None:
    pytest.importorskip("gradio")
    from audioprune.app.page import _slider

    assert _slider(3, None)["value"] == 3
    assert "value" not in _slider(3, 3)
    assert _slider(3, 12)["value"] == 3
    assert _slider(0, 3) == {"maximum": 1, "interactive": False, "value": 0, "__type__": "update"}


def test_only_what_is_new_is_computed(
    tagger: Tagger, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where nothing can be heard, everything but the message stays as it is."""
    gr = pytest.importorskip("gradio")
    from audioprune.app.page import OWN_SCORE, PageState, _results, _update

    asked: list[float] = []
    studio = Studio(lambda name: tagger, lambda name, rate, score, model: ap.TopK(rate))
    compare_now = studio.compare

    def compare_noted(path: Path, model: str, name: str, rate: float, *others: Any, **more: Any) -> Comparison:
        asked.append(rate)
        return compare_now(path, model, name, rate, *others, **more)

    monkeypatch.setattr(studio, "compare", compare_noted)
    with gr.Blocks():
        parts = _results(gr.HTML())

    def listen(path: Path | None, rate: float, before: PageState | None, again: bool = False) -> dict:
        words = (None if path is None else str(path), "any", "topk", rate, OWN_SCORE, before)
        return _update(studio, parts, *words, again=again)

    first = listen(sound, 0.5, None)
    heard = first[parts.state]
    assert first[parts.message]["visible"] is False
    assert set(vars(parts).values()) - set(first) == {parts.picture}, "which is drawn at the stage that is looked at"
    assert set(listen(sound, 0.5, heard)) == {parts.message}
    assert asked == [0.5]
    listen(sound, 0.5, heard, again=True)
    listen(sound, 0.6, heard)
    assert asked == [0.5, 0.5, 0.6]
    failed = listen(broken(tmp_path)["empty"], 0.5, heard)
    assert set(failed) == {parts.message}
    assert "still the answer to tone.wav" in failed[parts.message]["value"]
    assert set(listen(None, 0.5, heard)) == {parts.message}


@pytest.mark.parametrize("any_model", [True, False])
def test_models_of_their_own_are_for_who_sits_here(tagger: Tagger, any_model: bool) -> None:
    pytest.importorskip("gradio")
    from audioprune.app.page import page

    blocks = page(Studio(lambda name: tagger, build), ["a", "b"], choices(), any_model=any_model)
    found = {getattr(block, "elem_id", None): block for block in blocks.blocks.values()}
    assert found["model"].allow_custom_value is any_model
    assert not blocks.analytics_enabled
    assert "share" not in found["sound"].buttons, "the button that would send a sound away"


def test_both_transcripts_with_marks_on_what_differs() -> None:
    pytest.importorskip("gradio")
    from audioprune.app.speech import marked, transcripts

    row = {
        "path": "/here/a <b>.wav",
        "duration": 3.0,
        "text": "A rooster, crows.",
        "unpruned": "a rooster crowed & rose",
        "word_differences": 2,
        "unpruned_compute_seconds": 2.0,
        "compute_seconds": 0.5,
    }
    assert marked(row["unpruned"], row["text"]) == (
        "a rooster <mark>crowed</mark> <mark>&amp;</mark> <mark>rose</mark>",
        "A rooster, <mark>crows.</mark>",
    )
    shown = transcripts(row, "tiny", "TopK(0.5)")
    assert "2 words differ" in shown
    assert "With pruning: 0.50 s, about 4.0 times faster" in shown
    assert "a &lt;b&gt;.wav · tiny · TopK(0.5)" in shown
    assert "/here" not in shown
    same = transcripts(row | {"text": "", "unpruned": "", "word_differences": 0, "compute_seconds": 4.0}, "m", "n")
    assert "The same words" in same
    assert "about 2.0 times slower" in same
    assert same.count("<i>no words</i>") == 2


def test_a_tab_for_speech_only_where_there_is_a_whisper(tagger: Tagger, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from audioprune.app.page import page
    from audioprune.app.speech import SpeechStudio

    studio = Studio(lambda name: tagger, build)
    for speech in (None, SpeechStudio("tiny", Transcriber(None, ap.PaddingMerge()))):
        blocks = page(studio, ["a"], choices(), any_model=True, speech=speech)
        found = {getattr(block, "elem_id", None) for block in blocks.blocks.values()}
        assert ("transcripts" in found) is (speech is not None)
        assert "sound" in found


def test_the_tab_for_speech_hears_a_sound(sound: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from audioprune.app.speech import SpeechStudio

    parts = WhisperParts.read(save(tmp_path / "whisper", multilingual=False))
    recognizer = Recognizer(parts.load(), parts, Options())
    studio = SpeechStudio("tiny", Transcriber(recognizer, ap.PaddingMerge(), compare=True))
    row = studio(sound)
    assert {"text", "unpruned", "compute_seconds", "unpruned_compute_seconds"} < set(row)
    with pytest.raises(AudioError, match="the file is empty"):
        studio(broken(tmp_path)["empty"])
    assert ap.handle(recognizer.model) is None
