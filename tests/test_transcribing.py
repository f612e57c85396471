"""Transcription: what is written, what survives a kill, what is refused; and that it is what transformers would say."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

import audioprune as ap
from audioprune.bulk.log import ResultLogError
from audioprune.models.state import CheckpointError
from audioprune.transcribing import transcriber as rows_of
from audioprune.transcribing.differences import differences
from audioprune.transcribing.options import Options
from audioprune.transcribing.outputs import Output, choose_output, names_of, open_output
from audioprune.transcribing.parts import WhisperParts
from audioprune.transcribing.pieces import Piece, PieceLog
from audioprune.transcribing.recognizer import Recognizer, Segment, Transcript, Word
from audioprune.transcribing.subtitles import srt, table, txt, vtt
from audioprune.transcribing.transcriber import InMemory, Transcriber

from .conftest import tone
from .families import ast, whisper
from .test_nothing_to_do import CODE, NOT_NEEDED
from .transcribers import LANGUAGES, SECONDS, save

REAL = os.environ.get("AUDIOPRUNE_WHISPER", "")
SETTING = {"model": "tiny"}


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("english"), multilingual=False)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("multilingual"))


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Three short clips, and one of two and a half windows in a subfolder."""
    folder = tmp_path / "calls"
    (folder / "long").mkdir(parents=True)
    for i, seconds in enumerate((0.9, 0.5, 0.7)):
        soundfile.write(folder / f"{i}.wav", tone(seconds, hertz=300.0 * (i + 1)), 16_000)
    soundfile.write(folder / "long" / "talk.wav", tone(2.5 * SECONDS, hertz=500.0), 16_000)
    return folder


def recognizer(source: str, **options: Any) -> Recognizer:
    parts = WhisperParts.read(source)
    return Recognizer(parts.load(), parts, Options(**options))


def rows_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is recognized


@pytest.mark.parametrize("timestamps", ["none", "segment", "word"])
def test_a_batch_says_what_each_clip_says_alone(english, timestamps: str) -> None:
    heard = recognizer(english, timestamps=timestamps)
    sounds = [tone(0.5), tone(0.9, hertz=900.0), tone(0.3, hertz=200.0)]
    for sound, found in zip(sounds, heard.short(sounds), strict=True):
        (alone,) = heard.short([sound])
        assert found.text == alone.text
        assert found.segments == alone.segments
        assert found.seconds > 0


@torch.no_grad()
def test_short_clips_are_as_transformers_hears_them(english, multilingual) -> None:
    for source, options in ((english, {}), (multilingual, {"language": "de", "task": "translate"})):
        heard, sound = recognizer(source, **options), tone(0.8)
        inputs = heard.parts.extractor(sound, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        # Once: a Whisper of random weights tells times that it was not asked for, and is sent back to hear the rest.
        tokens = heard.model.generate(**inputs, **options, force_unique_generate_call=True)
        assert heard.short([sound])[0].text == heard.parts.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2])
def test_long_recordings_are_as_transformers_hears_them(english, beams: int) -> None:
    heard, sound, shares = recognizer(english, beams=beams), tone(2.6 * SECONDS), []
    inputs = heard.parts.extractor(
        sound,
        sampling_rate=16_000,
        return_tensors="pt",
        return_attention_mask=True,
        padding="longest",
        truncation=False,
    )
    raw = heard.model.generate(**inputs, num_beams=beams, return_timestamps=True, return_segments=True)["segments"][0]
    found = heard.long(sound, progress=shares.append)
    assert [(one.start, one.end) for one in found.segments] == [
        (round(float(one["start"]), 2), min(round(float(one["end"]), 2), 2.6))
        for one in raw
        if one["start"] < 2.6 and heard.parts.tokenizer.decode(one["tokens"], skip_special_tokens=True).strip()
    ]
    assert shares == sorted(shares)
    assert shares[0] == 0


def test_the_language_is_found_out_or_given(multilingual) -> None:
    sounds = [tone(0.5), tone(0.9, hertz=900.0)]
    for timestamps in ("none", "segment"):
        found = recognizer(multilingual, timestamps=timestamps).short(sounds)
        assert {one.language for one in found} <= set(LANGUAGES)
        given = recognizer(multilingual, timestamps=timestamps, language=found[0].language).short(sounds[:1])
        assert given[0].text == found[0].text
    assert recognizer(multilingual, language="german").short(sounds)[0].language == "de"
    assert recognizer(multilingual).long(tone(1.5)).language in LANGUAGES


def test_words_have_times_and_leave_nothing_behind(english) -> None:
    heard = recognizer(english, timestamps="word")
    before = heard.model.model.config._attn_implementation
    for found in (*heard.short([tone(0.9)]), heard.long(tone(2.5))):
        words = [word for segment in found.segments for word in segment.words]
        assert words
        assert all(0 <= word.start <= word.end <= 2.5 for word in words)
        assert "".join(word.word for word in words) == found.text.replace(" ", "")
    assert heard.model.model.config._attn_implementation == before
    assert "_postprocess_outputs" not in vars(heard.model)


def test_the_silence_after_a_clip_says_nothing(english) -> None:
    heard = recognizer(english, timestamps="segment")
    found = heard._segment({"start": 0.6, "end": 0.9, "tokens": torch.tensor([64, 65])}, 0.5, None)
    assert found is None


# Rows


@dataclass
class Words:
    """A recognizer of one word a second, whose number it is in the recording."""

    timestamps: str = "none"
    model: Any = None
    fails: Callable[[Any], Exception | None] = lambda waveforms: None
    lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.options = Options(timestamps=self.timestamps)
        self.parts: Any = type("Parts", (), {"window_seconds": 2.0})

    def short(self, waveforms: list[np.ndarray]) -> list[Transcript]:
        if (error := self.fails(waveforms)) is not None:
            raise error
        self.lengths.append(len(waveforms))
        return [Transcript(f"{len(waveform)}", seconds=0.25) for waveform in waveforms]

    def long(self, waveform: np.ndarray, language: str | None, progress: Callable[[float], Any]) -> Transcript:
        progress(0.5)
        told = [round(1000 * float(waveform[int((at + 0.5) * 16_000)])) for at in range(int(len(waveform) / 16_000))]
        segments = [Segment(f"{n}", at, at + 1.0, (Word(f"{n}", at, at + 1.0),)) for at, n in enumerate(told)]
        return Transcript(" ".join(map(str, told)), tuple(segments), "en", 1.0)


def counting(seconds: int) -> np.ndarray:
    """Each second's samples are its number in thousandths."""
    return np.repeat(np.arange(1, seconds + 1, dtype=np.float32) / 1000, 16_000)


def test_long_recordings_are_heard_in_pieces_and_nothing_twice(monkeypatch) -> None:
    monkeypatch.setattr(rows_of, "PIECE_SECONDS", 4.0)
    shares: list[float] = []
    engine = Transcriber(Words("word"), progress=shares.append)  # type: ignore[arg-type]
    (row,) = engine([InMemory("talk", counting(11))])
    assert row["text"] == "1 2 3 4 5 6 7 8 9 10 11"
    assert [(one["start"], one["end"]) for one in row["segments"]] == [(i, i + 1) for i in range(11)]
    assert row["words"][-1] == {"start": 10, "end": 11, "word": "11"}
    assert row["compute_seconds"] == 4.0, "pieces of 4 s, of which the last second is heard again"
    assert row["real_time_factor"] == round(4 / 11, 4)
    assert shares == sorted(shares)


@dataclass
class Stopped(Words):
    """It is stopped at one of its pieces."""

    at: int = 3
    heard: int = 0

    def long(self, *given: Any) -> Transcript:
        self.heard += 1
        if self.heard == self.at:
            raise KeyboardInterrupt
        return super().long(*given)


def test_a_long_recording_goes_on_where_it_was_stopped(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(rows_of, "PIECE_SECONDS", 4.0)
    quiet = np.concatenate((counting(6), np.zeros(128_000, np.float32), counting(3)))
    talk, run = InMemory("talk", quiet), {"of": "a test"}
    (expected,) = Transcriber(Words("word"))([talk])  # type: ignore[arg-type]
    for at in (1, 2, 3):
        log, words = PieceLog(tmp_path / "pieces", run), Stopped("word", at=at)
        with pytest.raises(KeyboardInterrupt):
            list(Transcriber(words, pieces=log)([talk]))  # type: ignore[arg-type]
        log.close()
        log, words = PieceLog(tmp_path / "pieces", run), Stopped("word", at=99)
        (row,) = Transcriber(words, pieces=log)([talk])  # type: ignore[arg-type]
        log.remove()
        assert row == expected
        assert words.heard == expected["compute_seconds"] - (at - 1)


def test_pieces_of_a_file_that_changed_are_of_no_use(tmp_path) -> None:
    path, piece = (
        tmp_path / "a.wav",
        Piece(4.0, 9.0, (Segment("hi", 0.0, 1.0, (Word("hi", 0.0, 1.0),)),), "en", 1.0, True),
    )
    path.write_bytes(b"a")
    log = PieceLog(tmp_path / "pieces", {})
    log.note(path, "pruned", piece)
    assert (log.of(path, "pruned"), log.of(path, "unpruned")) == ([piece], [])
    path.write_bytes(b"ab")
    assert log.of(path, "pruned") == []
    path.unlink()
    assert log.of(path, "pruned") == []


def test_silence_within_a_long_recording_is_passed_over(monkeypatch) -> None:
    monkeypatch.setattr(rows_of, "PIECE_SECONDS", 2.0)
    silent, sound = np.zeros(32_000, np.float32), counting(2)
    engine = Transcriber(Words())  # type: ignore[arg-type]
    row, none = engine(
        [InMemory("a", np.concatenate((silent, sound))), InMemory("b", np.concatenate((silent, silent)))]
    )
    assert row["text"] == "1 2"
    assert none == {"path": "b", "error": "b: silent, so there is nothing to transcribe"}


def test_batches_have_clips_of_one_length(monkeypatch) -> None:
    fake = Words()
    sounds = [InMemory(str(i), tone(1 + 0.01 * (i % 3))) for i in range(9)]
    rows = list(Transcriber(fake, batch_size=3)(sounds))  # type: ignore[arg-type]
    assert fake.lengths == [3, 3, 3]
    assert [row["text"] for row in rows] == sorted(row["text"] for row in rows)
    assert {row["path"] for row in rows} == {str(i) for i in range(9)}


def test_a_clip_that_the_model_cannot_cope_with_stops_nobody() -> None:
    def fails(waveforms: list[np.ndarray]) -> Exception | None:
        return IndexError("list index out of range") if any(len(w) == 17_000 for w in waveforms) else None

    sounds = [InMemory(str(i), tone(count / 16_000)) for i, count in enumerate((16_000, 16_500, 17_000, 18_000))]
    rows = {row["path"]: row for row in Transcriber(Words(fails=fails), batch_size=4)(sounds)}  # type: ignore[arg-type]
    assert rows["2"]["error"] == "2: cannot be transcribed (IndexError: list index out of range)"
    assert all("text" in rows[name] for name in "013")


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried"), ValueError("no such thing")])
def test_what_every_clip_would_fail_by_stops_the_run(error: Exception) -> None:
    with pytest.raises(type(error)):
        list(Transcriber(Words(fails=lambda _: error))([InMemory("a", tone(1.0))]))  # type: ignore[arg-type]


def test_from_python(english, calls) -> None:
    rows = ap.transcribe(english, calls, timestamps="segment", batch_size=2)
    assert [Path(row["path"]).name for row in rows] == ["0.wav", "1.wav", "2.wav", "talk.wav"]
    assert rows[0]["duration"] == 0.9
    parts = WhisperParts.read(english)
    (again,) = ap.transcribe(parts.load(), tone(0.9, hertz=300.0), timestamps="segment")
    assert (again["path"], again["text"]) == ("sound 0", rows[0]["text"])
    model: Any = parts.load()
    model.config._name_or_path = model.name_or_path = ""
    with pytest.raises(ValueError, match="give its processor as well"):
        ap.transcribe(model, calls)
    processor = type("Processor", (), {"tokenizer": parts.tokenizer, "feature_extractor": parts.extractor})
    assert ap.transcribe(model, calls / "0.wav", timestamps="segment", processor=processor)[0]["text"] == again["text"]
    with pytest.raises(TypeError, match="a Whisper with its decoder"):
        ap.transcribe(whisper(), calls)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        ap.transcribe(english, "nowhere.wav")


def test_a_pruned_model_transcribes_pruned(english) -> None:
    parts = WhisperParts.read(english)
    model: Any = parts.load()
    with ap.prune(model, ap.ToMe(0.6, layers="all")), ap.trace(model) as record:
        ap.transcribe(model, tone(0.9))
        assert record.kept[-1].shape[1] < 50


def test_reading_from_a_moment_on(tmp_path) -> None:
    soundfile.write(tmp_path / "a.wav", counting(3), 16_000, subtype="FLOAT")
    clip = ap.load_audio(tmp_path / "a.wav", start_seconds=1.5, max_seconds=1.0)
    assert (clip.seconds, clip.heard_seconds) == (3.0, 1.0)
    assert np.array_equal(clip.waveform, counting(3)[24_000:40_000])
    with pytest.raises(ap.AudioError, match="the file ends at 3.00 s"):
        ap.load_audio(tmp_path / "a.wav", start_seconds=9.0)


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"language": "de"}, "language de: .* knows English only"),
        ({"task": "translate"}, "task translate: .* knows English only"),
        ({"task": "sing"}, "task is 'sing'; it is transcribe or translate"),
        ({"timestamps": "sentence"}, "timestamps is 'sentence'; it is none, segment or word"),
        ({"beams": 0}, "beams is 0"),
    ],
)
def test_options_that_cannot_be(english, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**options).for_model(WhisperParts.read(english))


def test_options_of_a_multilingual_model(english, multilingual) -> None:
    parts = WhisperParts.read(multilingual)
    assert Options("German", "translate").for_model(parts) == Options("de", "translate")
    assert Options("English").for_model(WhisperParts.read(english)).language is None
    with pytest.raises(ValueError, match="language is 'klingon'; .* knows de, en, fr"):
        Options("klingon").for_model(parts)
    parts.generation.alignment_heads = None
    with pytest.raises(ValueError, match="has no alignment_heads; take that"):
        Options(timestamps="word").for_model(parts)


def test_models_of_another_kind(tmp_path) -> None:
    ast().save_pretrained(tmp_path / "ast")
    whisper().save_pretrained(tmp_path / "classifier")
    for name, kind in (("ast", "ASTForAudioClassification"), ("classifier", "WhisperForAudioClassification")):
        with pytest.raises(CheckpointError, match=f"kind {kind}, but this takes a Whisper with .*; .*audioprune tag"):
            WhisperParts.read(tmp_path / name)
    with pytest.raises(CheckpointError, match="a Whisper with its decoder"):
        WhisperParts.read("esc10")
    with pytest.raises(CheckpointError, match="audioprune ask"):
        WhisperParts.read("listener")
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="a file; give the folder"):
        WhisperParts.read(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError):
        WhisperParts.read("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no config.json in this folder"):
        WhisperParts.read(tmp_path / "empty")


def test_parts_of_different_models(english, tmp_path) -> None:
    folder = Path(shutil.copytree(english, tmp_path / "model"))
    WhisperFeatureExtractor(128, chunk_length=SECONDS).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="makes 128 mel channels, but its model takes 16; take the preproc"):
        WhisperParts.read(folder)
    WhisperFeatureExtractor(16, chunk_length=2).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="makes 200 frames, but its model takes 100"):
        WhisperParts.read(folder)
    (folder / "preprocessor_config.json").unlink()
    assert WhisperParts.read(folder).extractor.nb_max_frames == 100
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer|cannot be loaded"):
        WhisperParts.read(folder)


# Forms


ROW = {
    "path": "/a/b\tc.wav",
    "text": "Hello <you> & me.",
    "segments": [{"start": 0.0, "end": 1.25, "text": "Hello"}, {"start": 3661.5, "end": 3661.5, "text": "<you> & me."}],
}


def test_subtitles() -> None:
    assert srt(ROW) == ("1\n00:00:00,000 --> 00:00:01,250\nHello\n\n2\n01:01:01,500 --> 01:01:01,600\n<you> & me.\n\n")
    assert vtt(ROW).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nHello\n\n")
    assert "&lt;you&gt; &amp; me." in vtt(ROW)
    assert txt(ROW) == "Hello\n<you> & me.\n"
    assert txt({"text": "Hello"}) == "Hello\n"
    assert table([ROW, {"path": "x", "error": "bad"}]) == "/a/b c.wav\tHello <you> & me.\n"
    assert srt({**ROW, "words": [{"start": 0.0, "end": 0.5, "word": "Hi"}]}).count("-->") == 1
    assert srt({"segments": []}) == ""


def test_differences() -> None:
    found = differences("Hello, there friend!", "hello their dear friend")
    assert found.places == (("there", "their dear"),)
    assert (found.count, found.words) == (2, 3)
    assert differences("Same words.", "same WORDS").count == 0


@pytest.mark.parametrize(
    ("out", "form", "expected"),
    [
        ("a.jsonl", None, Output(Path("a.jsonl"), "jsonl", False)),
        ("a.SRT", None, Output(Path("a.SRT"), "srt", False)),
        ("a.vtt", "vtt", Output(Path("a.vtt"), "vtt", False)),
        ("subs/", "srt", Output(Path("subs"), "srt", True)),
        ("subs", "txt", Output(Path("subs"), "txt", True)),
        ("made", "vtt", Output(Path("made"), "vtt", True)),
    ],
)
def test_where_results_go(tmp_path, monkeypatch, out: str, form: str | None, expected: Output) -> None:
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    assert choose_output(out, form) == expected


@pytest.mark.parametrize(
    ("out", "form", "said"),
    [
        ("a.mp4", None, "a name that ends in .jsonl, .srt, .vtt, .txt, or a folder .*subtitles/ --format srt"),
        ("subs", None, "a name that ends in"),
        ("subs/", None, "is a folder; say what each sound gets there, such as --format srt"),
        ("a.srt", "vtt", "differ"),
        ("subs/", "jsonl", "--format is 'jsonl'; it is srt, vtt, txt"),
    ],
)
def test_where_results_cannot_go(out: str, form: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_output(out, form)


def test_names_in_a_folder(tmp_path) -> None:
    for name in ("in/a.wav", "in/b/a.wav", "in/b/a.mp3", "x/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = [tmp_path / name for name in ("in/a.wav", "in/b/a.wav", "in/b/a.mp3")]
    names = names_of(paths, [tmp_path / "in"], "srt")
    assert list(map(str, names.values())) == ["a.srt", "b/a.wav.srt", "b/a.mp3.srt"]
    assert list(map(str, names_of(paths[1:2], paths[1:2], "txt").values())) == ["a.txt"]
    with pytest.raises(ValueError, match="would both be written to a.wav.srt; name the folder above"):
        names_of([tmp_path / "in/a.wav", tmp_path / "x/a.wav"], [], "srt")


def row_of(path: Path, text: str = "hi") -> dict:
    return {"path": str(path), "text": text, "segments": [{"start": 0.0, "end": 1.0, "text": text}]}


def test_a_folder_of_subtitles_is_taken_up_again(tmp_path) -> None:
    sounds = [tmp_path / name for name in ("a.wav", "b.wav", "c.wav")]
    output = Output(tmp_path / "subs", "srt", True)
    with open_output(output, SETTING, sounds) as log:
        log.write(row_of(sounds[0]))
        log.write({"path": str(sounds[1]), "error": "bad"})
        assert srt(row_of(sounds[0])) == (tmp_path / "subs/a.srt").read_text()
    (tmp_path / "subs/a.srt").unlink()
    with open_output(output, SETTING, sounds) as log:
        assert [log.is_done(sound) for sound in sounds] == [True, True, False]
        assert (tmp_path / "subs/a.srt").exists(), "made from its row"
    (tmp_path / "subs/a.srt").write_text("corrected by hand")
    (tmp_path / "subs/c.srt").write_text("somebody's own")
    with pytest.raises(ResultLogError, match=r"c.srt: exists, and this command did not write it"):
        open_output(output, SETTING, sounds)
    (tmp_path / "subs/c.srt").unlink()
    with open_output(output, SETTING, sounds):
        assert (tmp_path / "subs/a.srt").read_text() == "corrected by hand"
    with pytest.raises(ResultLogError, match="begun with model='tiny'"):
        open_output(output, {"model": "other"}, sounds)


def test_one_file_is_taken_up_again(tmp_path) -> None:
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    output = Output(tmp_path / "talk.txt", "txt", False)

    def interrupted() -> None:
        with open_output(output, SETTING, [a, b]) as log:
            log.write(row_of(b, "two"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert output.path.read_text() == f"{b}\ttwo\n", "what was done is there"
    with open_output(output, SETTING, [a, b]) as log:
        assert log.is_done(b)
        log.write(row_of(a, "one"))
    assert output.path.read_text() == f"{a}\tone\n{b}\ttwo\n", "in the order of the sounds"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".talk.txt.jsonl", "talk.txt"]
    subtitles = Output(tmp_path / "a.srt", "srt", False)
    with pytest.raises(ValueError, match="times of one recording, and there are 2; .* --out subtitles/ --format srt"):
        open_output(subtitles, SETTING, [a, b])
    with open_output(subtitles, SETTING, [a]) as log:
        log.write(row_of(a))
    assert subtitles.path.read_text().startswith("1\n00:00:00,000")
    with pytest.raises(ResultLogError, match="a.srt: holds .*a.wav; choose another"):
        open_output(subtitles, SETTING, [b])
    subtitles.journal.unlink()
    with pytest.raises(ResultLogError, match="exists, and this command did not write it"):
        open_output(subtitles, SETTING, [a])


# The command


def test_the_command_and_again(run, english, calls) -> None:
    (calls / "corrupt.wav").write_bytes(b"RIFF1234")
    (calls / "empty.mp3").write_bytes(b"")
    soundfile.write(calls / "silent.wav", np.zeros(8000, np.float32), 16_000)
    words = ("transcribe", calls, "--model", english, "--method", "none", "--timestamps", "word", "--out", "r.jsonl")
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "4 files done" in err
    assert "4 files, 4.6 s of sound, computed in" in err
    assert "real-time factor" in err
    assert "3 files failed" in err
    rows = rows_in(Path("r.jsonl"))
    assert {Path(row["path"]).name for row in rows if "error" in row} == {"corrupt.wav", "empty.mp3", "silent.wav"}
    good = [row for row in rows if "error" not in row]
    assert all(
        {"duration", "text", "segments", "words", "compute_seconds", "real_time_factor"} <= set(row) for row in good
    )
    assert "language" not in good[0]
    assert good[0]["setting"]["method"] is None
    assert "0 files done, 4 were done before" in run(*words)[2]
    code, _, err = run(*words[:-3], "segment", *words[-2:])
    assert code == 2
    assert "begun with timestamps='word' (not 'segment')" in err


@pytest.mark.parametrize("out", [("a.txt",), ("subs/", "--format", "srt"), ("a.jsonl",)])
def test_a_finished_run_imports_no_pytorch(run, english, calls, out: tuple[str, ...]) -> None:
    words = ("transcribe", calls / "0.wav", "--model", english, "--out", *out)
    assert run(*words)[0] == 0
    code = CODE.format(names=(*NOT_NEEDED, "numpy"))
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
    assert "0 files done, 1 were done before" in done.stderr


def test_a_finished_run_loads_no_weights_for_other_words(run, english, calls, monkeypatch) -> None:
    words = ("transcribe", calls / "0.wav", "--model", english, "--out", "a.txt", "--method")
    assert run(*words, "recommended")[0] == 0
    monkeypatch.setattr(WhisperParts, "load", lambda *_: pytest.fail("loaded"))
    assert "1 were done before" in run(*words, "padding")[2]
    assert "begun with" in run(*words, "tome")[2]


def test_the_recommended_method_and_a_rate_of_the_sound(run, english, calls) -> None:
    words = ("transcribe", calls / "0.wav", "--model", english, "--out")
    assert "Pruned by PaddingMerge(0.04)" in run(*words, "a.jsonl")[2]
    assert rows_in(Path("a.jsonl"))[0]["setting"]["keep_rate"] == 0.04
    code, _, err = run(*words, "b.jsonl", "--keep-rate", "0.9")
    assert code == 0, err
    method = rows_in(Path("b.jsonl"))[0]["setting"]["method"]
    assert [(one["method"], one["keep_rate"]) for one in method] == [("PaddingMerge", 0.04), ("AToMe", 0.9)]


def test_pruned_beside_unpruned(run, multilingual, calls) -> None:
    words = ("transcribe", calls, "--model", multilingual, "--method", "tome", "--keep-rate", "0.6", "--compare")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert row["language"] in LANGUAGES
        assert row["word_differences"] == differences(row["unpruned"], row["text"]).count
    same = sum(not row["word_differences"] for row in rows)
    assert f"same words in {same} of 4" in err
    assert "as fast, by the median of files" in err
    assert "Pruned by ToMe(0.6" in err
    plain = run("transcribe", calls, "--model", multilingual, "--method", "none", "--json")[1]
    assert {row["path"]: row["unpruned"] for row in rows} == {
        row["path"]: row["text"] for row in map(json.loads, plain.splitlines())
    }


def test_subtitles_of_a_folder(run, english, calls) -> None:
    words = ("transcribe", calls, "--model", english, "--method", "none", "--out", "subs/", "--format", "vtt")
    assert run(*words)[0] == 0
    assert sorted(str(path) for path in Path("subs").rglob("*.vtt")) == [
        "subs/0.vtt",
        "subs/1.vtt",
        "subs/2.vtt",
        "subs/long/talk.vtt",
    ]
    assert Path("subs/long/talk.vtt").read_text().count("-->") > 1


def test_texts_on_a_terminal(run, english, calls) -> None:
    words = ("--model", english, "--method", "none")
    code, out, _ = run("transcribe", calls / "0.wav", *words)
    assert code == 0
    assert "0.wav" not in out
    assert out.strip()
    assert "0.wav" in run("transcribe", calls, *words)[1]
    assert "  0." in run("transcribe", calls / "0.wav", *words, "--timestamps", "segment")[1]


def test_ctrl_c_loses_nothing(run, monkeypatch, english, calls) -> None:
    words = ("transcribe", calls, "--model", english, "--method", "none", "--batch-size", "1", "--out", "a.jsonl")
    own, turns = Recognizer.short, []

    def interrupted(self: Recognizer, waveforms: list[np.ndarray]) -> list[Transcript]:
        turns.append(len(waveforms))
        if len(turns) > 2:
            raise KeyboardInterrupt
        return own(self, waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(Recognizer, "short", interrupted)
        code, _, err = run(*words)
    assert code == 130
    assert "Stopped" in err
    assert len(rows_in(Path("a.jsonl"))) == 2
    code, _, err = run(*words)
    assert code == 0
    assert "2 files done, 2 were done before" in err


@pytest.mark.parametrize("out", [("a.srt",), ("subtitles/", "--format", "srt")])
def test_ctrl_c_in_a_long_recording_loses_no_piece(run, monkeypatch, english, tmp_path, out: tuple[str, ...]) -> None:
    parts = [tone(SECONDS, hertz=100.0 * i) for i in range(2, 7)]
    soundfile.write(tmp_path / "talk.wav", np.concatenate(parts), 16_000)
    words = ("transcribe", tmp_path / "talk.wav", "--model", english, "--out")
    monkeypatch.setattr(rows_of, "PIECE_SECONDS", 1.6 * SECONDS)
    own, stop_at, turns = Recognizer.long, [0], []

    def counted(self: Recognizer, waveform: np.ndarray, *given: Any) -> Transcript:
        turns.append(len(waveform))
        if len(turns) == stop_at[0]:
            raise KeyboardInterrupt
        return own(self, waveform, *given)

    monkeypatch.setattr(Recognizer, "long", counted)
    assert run(*words, "whole.srt")[0] == 0
    whole = turns.copy()
    assert len(whole) > 3
    stop_at[0] = len(whole) + 3
    assert run(*words, *out)[0] == 130
    assert run(*words, *out)[0] == 0
    assert turns == [*whole, *whole[:3], *whole[2:]], "the piece that was stopped is heard again, and no other"
    made = Path("subtitles/talk.srt" if len(out) > 1 else "a.srt")
    assert made.read_text() == Path("whole.srt").read_text()
    assert not list(Path().rglob("*.pieces"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("CALLS", "--out", "a.srt"), "such as --out subtitles/ --format srt"),
        (("CALL", "--format", "srt"), "--format is for --out"),
        (("CALL", "--out", "a.srt", "--timestamps", "none"), "subtitles have times"),
        (("CALL", "--language", "de"), "knows English only"),
        (("CALL", "--model", "esc10"), "takes a Whisper with its decoder"),
        (("CALL", "--method", "none", "--compare"), "--compare is with a pruned model"),
        (("CALL", "--method", "none", "--keep-rate", "0.5"), "prunes nothing"),
        (("CALL", "--method", "magic"), "no method 'magic'"),
        (("CALL", "--dtype", "int8"), "float32, bfloat16"),
        (("CALL", "--device", "tpu9"), "--device is 'tpu9'"),
        (("nowhere.wav",), "no such file or folder"),
    ],
)
def test_mistakes_get_one_line(run, english, calls, words: tuple[str, ...], said: str) -> None:
    given = {"CALLS": str(calls), "CALL": str(calls / "0.wav")}
    words = tuple(given.get(word, word) for word in words)
    code, out, err = run("transcribe", *words, *(() if "--model" in words else ("--model", english)))
    assert code == 2
    assert err.startswith("error:")
    assert said in err
    assert "Traceback" not in out + err
    assert not list(Path().glob("a.*"))


# Real weights


@pytest.mark.skipif(not Path(REAL, "config.json").is_file(), reason="AUDIOPRUNE_WHISPER names no Whisper")
def test_real_speech() -> None:
    folder = (
        Path(os.environ.get("AUDIOPRUNE_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "speech" / "audio"
    )
    sounds = sorted(folder.glob("*1688-142285-000[2-3].flac"))
    if not sounds:
        pytest.skip("no speech in ../shared/data")
    rows = ap.transcribe(REAL, sounds, timestamps="word")
    assert differences(rows[0]["text"], "you don't mean that you thought me so silly").count == 0
    words = rows[0]["words"]
    assert words[0]["word"] == "You"
    assert 2.0 < words[-1]["end"] < 3.0
    assert all(one["start"] <= other["start"] for one, other in itertools.pairwise(words))
