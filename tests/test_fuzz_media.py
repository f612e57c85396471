"""Damaged sound files of every format: each is a clip or an `AudioError`, in bounded time and memory.

`AUDIOPRUNE_FUZZ=10000 pytest tests/test_fuzz_media.py` tries that many files. A file that ends the process is found in
the folder of the test, under the name of its number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audioprune import AudioError, load_audio

from .media import FORMATS, LIBSNDFILE, can_encode, encode, write

COUNT = int(os.environ.get("AUDIOPRUNE_FUZZ", "60"))
SEED = 22
CHILDREN = 200
"""Files that one process decodes."""
SECONDS_EACH = 60.0
"""Time limit of one file, which is far more than it takes on a busy machine."""
MOST_MIB = 400
"""Growth of memory that is allowed while files of one second are decoded."""


def originals(folder: Path) -> dict[str, bytes]:
    """A whole file of a second in each format, by its suffix."""
    rng = np.random.default_rng(SEED)
    files: dict[str, bytes] = {}
    for suffix in LIBSNDFILE:
        sound = _sound(rng, 16_000)
        files[suffix] = write(folder / f"whole.{suffix}", sound, 16_000, suffix).read_bytes()
    for suffix, kind in FORMATS.items():
        if can_encode(kind):
            files[suffix] = encode(folder / f"whole.{suffix}", _sound(rng, kind.rate), kind).read_bytes()
    return files


def _sound(rng: np.random.Generator, rate: int) -> np.ndarray:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    return (0.2 * tone + 0.05 * rng.standard_normal(rate)).astype(np.float32)


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to three damages: flipped bits, most of them in its header, or a part cut, doubled, replaced."""
    content = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        size = max(1, len(content))
        place = int(rng.integers(0, min(size, 600) if rng.random() < 0.6 else size))
        length = int(rng.integers(1, max(2, size // 4)))
        match rng.integers(0, 6):
            case 0:
                for _ in range(rng.integers(1, 20)):
                    near = min(size - 1, place + int(rng.integers(0, 64)))
                    content[near : near + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                del content[place:]
            case 2:
                del content[place : place + length]
            case 3:
                content[place:place] = rng.bytes(length)
            case 4:
                content[place:place] = content[place : place + length]
            case _:
                extreme = (b"\x00", b"\xff", b"\x7f")[rng.integers(0, 3)] * int(rng.integers(1, 9))
                content[place : place + len(extreme)] = extreme
    return bytes(content)


def files(folder: Path, first: int, last: int) -> list[Path]:
    """Damaged files from number `first` to number `last`, the same for the same numbers."""
    whole = originals(folder)
    suffixes = list(whole)
    paths = []
    for number in range(first, last):
        suffix = suffixes[number % len(suffixes)]
        path = folder / f"{number:05d}.{suffix}"
        path.write_bytes(mutated(whole[suffix], np.random.default_rng((SEED, number))))
        paths.append(path)
    return paths


def wrong(path: Path) -> str | None:
    """What is wrong with the outcome of a file; None if it is a clip or an `AudioError`."""
    for part in ({}, {"max_seconds": 0.5}, {"start_seconds": 0.4, "max_seconds": 0.3}):
        try:
            clip = load_audio(path, **part)
        except AudioError as error:
            if not str(error).startswith(str(path)):
                return f"{part}: the message does not name the file: {error}"
        except BaseException as error:
            return f"{part}: {type(error).__name__}: {error}"
        else:
            if not np.isfinite(clip.waveform).all() or not np.isfinite(clip.seconds):
                return f"{part}: not finite"
            if "max_seconds" in part and clip.heard_seconds > part["max_seconds"] + 0.01:
                return f"{part}: {clip.heard_seconds} s"
            path.with_suffix(".heard").touch()
    return None


def main(folder: Path, first: int, last: int) -> None:
    """Decode files and print what is wrong, as JSON; each file is removed once it has been decoded."""
    import resource

    paths = files(folder, first, last)
    wrong(folder / "whole.wav"), wrong(folder / "whole.m4a")  # what decodes them is imported now
    before, found, heard = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}, 0
    for path in paths:
        print(path.name, file=sys.stderr, flush=True)
        problem = wrong(path)
        mark = path.with_suffix(".heard")
        heard += mark.exists()
        mark.unlink(missing_ok=True)
        if problem is None:
            path.unlink()
        else:
            found[path.name] = problem
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"wrong": found, "mib": round(grown), "heard": heard}))


def test_damaged_files(tmp_path) -> None:
    """In processes of their own, because a decoder that crashes would end this one."""
    pytest.importorskip("resource")
    pytest.importorskip("av", reason="the extra media (PyAV) is not installed")
    heard, most = 0, 0
    for first in range(0, COUNT, CHILDREN):
        last = min(COUNT, first + CHILDREN)
        words = [sys.executable, "-m", "tests.test_fuzz_media", str(tmp_path), str(first), str(last)]
        run = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=120 + SECONDS_EACH * (last - first)
        )
        named = [line for line in run.stderr.splitlines() if line[:5].isdigit()]
        assert run.returncode == 0, f"{named[-1:]} ended the process ({run.returncode}): {run.stderr[-500:]}"
        result = json.loads(run.stdout.splitlines()[-1])
        assert not result["wrong"], result["wrong"]
        assert result["mib"] < MOST_MIB, f"files {first} to {last}"
        heard, most = heard + result["heard"], max(most, result["mib"])
    print(f"{COUNT} files: {heard} heard, {COUNT - heard} refused; memory grew by {most} MiB at most")
    assert 0 < heard < COUNT


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
