"""Commands that write to --out, on a few sounds and with tiny models."""

from __future__ import annotations

from pathlib import Path

import soundfile

from . import transcribers
from .conftest import class_folders, tone
from .families import audiomae
from .test_training_processes import RECIPE

TIMELESS = ("--bench-seconds", 0)


def build(folder: Path) -> Path:
    """Fill a folder with sounds, sounds with labels, models and a recipe."""
    class_folders(folder / "data", {"train": 4, "test": 2})
    (folder / "clips").mkdir()
    for i in range(16):
        soundfile.write(folder / "clips" / f"{i}.wav", tone(0.4, hertz=200.0 * (i + 1)), 16_000)
    numbers = {"high": 0, "low": 1}
    model = audiomae(num_labels=2, id2label={i: name for name, i in numbers.items()}, label2id=numbers)
    model.save_pretrained(folder / "tiny")
    transcribers.save(folder / "whisper")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


def words_of(command: str, stage: Path, out: object) -> list[object]:
    """A command that writes to `out`."""
    tiny, clips, data = stage / "tiny", stage / "clips", stage / "data"
    labelled: list[object] = ["--model", tiny, "--data", data]
    words: dict[str, list[object]] = {
        "tag": ["tag", clips, "--model", tiny, "--method", "topk"],
        "transcribe": ["transcribe", clips, "--model", stage / "whisper", "--method", "none"],
        "subtitles": ["transcribe", clips, "--model", stage / "whisper", "--format", "srt"],
        "compare": ["compare", *labelled, "--methods", "topk,tome,evit", "--keep-rates", "0.5", *TIMELESS],
        "calibrate": [
            *("calibrate", "--clips", clips, "--model", tiny, "--methods", "topk", "--max-disagreement", 0.5),
            *("--bench-seconds", 0.01),
        ],
        "eval": ["eval", *labelled, "--keep-rates", "0.5", *TIMELESS],
        "analyze": [
            *("analyze", *labelled, "--keep-rates", "0.5", "--pictures", 0, *TIMELESS),
            *("--skip", "cluster_drop,ranking,perturbation"),
        ],
        "train": ["train", "--recipe", stage / "tiny.yaml", "--data", data],
        "pretrain": ["pretrain", "--recipe", "esc10-pretrain", "--set", "data=null", "--data", data],
        "sweep": ["sweep", "--recipe", stage / "tiny.yaml", "--data", data],
        "explain": ["explain", clips / "0.wav", "--model", tiny],
    }
    return [*words[command], "--out", out]
