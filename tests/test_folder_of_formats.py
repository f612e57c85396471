"""A folder as users have it: many formats, odd names, links, hidden files, and some that are no sounds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from audioprune.audio.files import load_audio
from audioprune.bulk.sounds import find_clips
from audioprune.cli.demo import CLIPS
from audioprune.data.files import sounds

from .media import FORMATS, LIBSNDFILE, PROTECTED, can_encode, encode, silent_video, write

GOOD = {
    "dog barking.wav": "rain",
    "Aufnahme (3) – Straße.flac": "rain",
    "[1] é 音.ogg": "chainsaw",
    "WhatsApp Ptt.opus": "chainsaw",
    "100% sure.MP3": "chainsaw",
    "aiff.aiff": "chainsaw",
    "phone.m4a": "chainsaw",
    "lossless.alac.m4a": "chainsaw",
    "clip.MP4": "chainsaw",
    "holiday.mov": "chainsaw",
    "browser.live.webm": "chainsaw",
    "recorder.webm": "chainsaw",
    "screen.mkv": "chainsaw",
    "old.wma": "chainsaw",
    "call.amr": "chainsaw",
    "call.3gp": "chainsaw",
    "film.ac3": "chainsaw",
    "radio.aac": "chainsaw",
    "camera.avi": "chainsaw",
    "web.flv": "chainsaw",
    "camcorder.m2ts": "chainsaw",
    "disc.mpg": "chainsaw",
    "-dash.m4a": "chainsaw",
    "two\nlines.m4a": "chainsaw",
}
"""Name → clip that ships with the package, which it holds."""
REFUSED = {
    "text.m4a": "cannot be decoded as audio",
    "cut.mp4": "its index (moov) is missing",
    "bought.m4a": "protected against copying (DRM)",
    "mute.mp4": "has no sound track",
    "empty.m4a": "the file is empty",
    "noise.webm": "cannot be decoded as audio",
}


def fill(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Write the files; returns those with a sound, and those without."""
    good: dict[str, str] = {}
    for name, clip in GOOD.items():
        suffix = (
            name.lower().partition(".")[2] if name.lower().partition(".")[2] in FORMATS else name.lower().split(".")[-1]
        )
        kind = FORMATS.get(suffix)
        if kind is None:
            write(folder / name, load_audio(CLIPS / f"{clip}.ogg").waveform, 16_000, suffix)
        elif can_encode(kind):
            encode(folder / name, load_audio(CLIPS / f"{clip}.ogg", sample_rate=kind.rate).waveform, kind)
        else:
            continue
        good[name] = clip
    whole = (folder / "phone.m4a").read_bytes()
    (folder / "text.m4a").write_text("This is no sound.\n" * 100)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    encode(folder / "bought.m4a", load_audio(CLIPS / "rain.ogg", sample_rate=44_100).waveform, PROTECTED)
    silent_video(folder / "mute.mp4")
    (folder / "empty.m4a").touch()
    (folder / "noise.webm").write_bytes(os.urandom(4000))
    return good, REFUSED


def test_every_file_is_answered_or_refused_with_its_remedy(run, tmp_path, monkeypatch) -> None:
    pytest.importorskip("av", reason="the extra media (PyAV) is not installed")
    folder = tmp_path / "my sounds"
    folder.mkdir()
    good, refused = fill(folder)
    (folder / ".DS_Store").write_bytes(bytes(10))
    (folder / "._phone.m4a").write_bytes(bytes(10))
    code, out, err = run("tag", folder, "--model", "esc10", "--json", "--top", "1")
    rows = {Path(row["path"]).name: row for row in map(json.loads, out.splitlines())}
    assert rows.keys() == good.keys() | refused.keys()
    assert {name: row["labels"][0]["label"] for name, row in rows.items() if name in good} == good
    for name, said in refused.items():
        assert said in rows[name]["error"], name
        assert rows[name]["error"].count(";") >= 1, "a remedy"
    assert code == 1
    assert f"{len(good)} clips done" in err
    assert f"{len(refused)} clips failed" in err
    assert "longer than the model's window" not in err
    assert "Passing over 2 files that are hidden, or no sounds by their names: .DS_Store, ._phone.m4a" in err


def test_formats_of_the_folder() -> None:
    assert len(GOOD) + len(REFUSED) == 30
    assert len({name.lower().split(".")[-1] for name in GOOD}) >= 12
    assert LIBSNDFILE.keys() <= {name.lower().split(".")[-1] for name in GOOD}


def test_links_and_hidden_files(tmp_path) -> None:
    """Linked folders are followed, each once; hidden files and folders are left out, and counted."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for place in (outside / "deep", folder / "inner", folder / ".git", folder / "__MACOSX"):
        place.mkdir(parents=True)
        (place / "a.wav").touch()
    for name in (".DS_Store", "._a.wav", "notes.txt", "b.M4A"):
        (folder / name).touch()
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    (folder / "inner" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "broken.wav").symlink_to(tmp_path / "gone.wav")
    found, left_out = find_clips([folder])
    names = ["b.M4A", "broken.wav", "inner/a.wav", "linked/deep/a.wav"]
    assert [path.relative_to(folder).as_posix() for path in found] == names
    assert [path.name for path in left_out] == [".DS_Store", "._a.wav", ".git", "__MACOSX", "notes.txt"]
    assert sorted(sounds(folder)) == found
    assert list(sounds(folder, deep=False)) == found[:2]
