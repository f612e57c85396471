"""Tag sounds of some minutes and of hours, and measure time and memory.

    python scripts/long_sounds.py --minutes 3,60,120 --out results/long-sounds.json --pictures out/long-sounds

The sounds are the example clips, again and again, in stereo at 44.1 kHz. Two hours take 1.3 GB of disk meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from audioprune.audio.files import SAMPLE_RATE, load_audio
from audioprune.compare.benchmark import machine
from audioprune.files import write_json

CLIPS = Path(__file__).parents[1] / "audioprune" / "assets" / "clips"
RATE = 44_100
REPEATS = 3
"""Times that a clip is heard before the next one."""


def write_sound(path: Path, minutes: float, rate: int = RATE, channels: int = 2) -> None:
    clips = [soxr.resample(load_audio(clip).waveform, SAMPLE_RATE, rate) for clip in sorted(CLIPS.glob("*.ogg"))]
    blocks = [np.stack([np.tile(clip, REPEATS)] * channels, axis=1) for clip in clips]
    left, number = round(60 * minutes * rate), 0
    with soundfile.SoundFile(path, "w", rate, channels, subtype="PCM_16") as file:
        while left:
            block = blocks[number % len(blocks)][:left]
            file.write(block)
            left, number = left - len(block), number + 1


def measure(sound: Path, picture: Path) -> dict[str, Any]:
    """Time and memory of the command in a process of its own."""
    words = [sys.executable, "-m", "audioprune", "tag", str(sound), "--json", "--picture", str(picture)]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise RuntimeError(f"{sound.name}: exit code {os.waitstatus_to_exitcode(status)}")
        said.seek(0)
        row = json.loads(said.read())
    return {
        "windows": len(row["windows"]),
        "wall_seconds": round(seconds, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_megabytes": round(usage.ru_maxrss / 1024),
        "json_bytes": len(json.dumps(row)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", default="3,60,120")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in map(float, asked.minutes.split(",")):
            sound = Path(folder) / f"{minutes:g}-minutes.wav"
            write_sound(sound, minutes)
            rows.append({"minutes": minutes, **measure(sound, asked.pictures / f"{sound.stem}.png")})
            print(rows[-1], flush=True)
            sound.unlink()
    words = f"--minutes {asked.minutes} --out {asked.out} --pictures {asked.pictures}"
    command = f"python scripts/long_sounds.py {words}"
    write_json(asked.out, {"command": command, "machine": machine(), "model": "esc10, recommended", "rows": rows})


if __name__ == "__main__":
    main()
