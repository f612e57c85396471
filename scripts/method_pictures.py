"""Draw what each method keeps of one example clip: docs/methods/NAME.png, all of one size to compare by eye.

    python scripts/method_pictures.py [NAME …] [--trained FOLDER]

The shipped model hears the clip at keep rate 0.5 in three blocks. FOLDER is what `scripts/method_tables.sh train` made
for that model (RUNS/audiomae-esc10). A method that learns is drawn from its folder there, with the weights that were
fine-tuned with it. Without FOLDER such methods are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import audioprune as ap
from audioprune.methods import METHODS
from audioprune.methods.names import TABLE
from audioprune.plots import _draw_tokens, _finish, _spectrogram

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "audioprune/assets/clips/baby.ogg"
TARGET = ROOT / "docs/methods"
LEARNT = [entry.kind for entry in TABLE if entry.needs_training or entry.untrained_as]
"""Methods that are drawn from a model that was fine-tuned with them: without it they cannot choose, or add nothing."""
OWN: dict[str, Any] = {"PaddingMerge": {"layers": (0, 4, 8), "margin": 0}}
"""Settings of a method that would have one stage, or nothing to show, at its defaults."""
SHORT = {"PaddingMerge": 1.4}
"""Seconds of the sound for a method that needs padding after it."""
COARSER = (4, 2)
"""Frames and mels that are averaged for drawing. Noise makes a PNG large, and a patch has 16 of each."""
COLOURS, DPI = 32, 100


def models(names: list[str], trained: Path | None) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """Yield the name, the pruned model, and the title of the picture."""
    folders = {entry.kind: entry.word for entry in TABLE}
    for name in names:
        if name in LEARNT:
            if trained is None:
                print(f"{name}: skipped; --trained gives the folder of its model")
                continue
            model = ap.load(trained / folders[name])
            handle = ap.handle(model)
            assert handle is not None
            yield name, model, f"{name}({handle.keep_rate}), in the model that was fine-tuned with it"
        else:
            model = ap.load("esc10")
            method = ap.recommended(model) if name == "recommended" else METHODS[name](0.5, **OWN.get(name, {}))
            ap.prune(model, method)
            yield name, model, f"{'ap.recommended(model): ' if name == 'recommended' else ''}{method}"


def coarser(log_mel: np.ndarray) -> np.ndarray:
    """Average the cells of `COARSER`, and keep the shape."""
    frames, mels = (length // step for length, step in zip(log_mel.shape, COARSER, strict=True))
    means = log_mel.reshape(frames, COARSER[0], mels, COARSER[1]).mean(axis=(1, 3))
    return means.repeat(COARSER[0], axis=0).repeat(COARSER[1], axis=1)


def draw(log_mel: np.ndarray, trace: ap.Trace, title: str, seconds: float) -> Figure:
    """Draw the input and three stages: all stages if there are three, or the last one and two evenly before it."""
    count = len(trace.kept)
    stages = [count * i // 3 - 1 for i in (1, 2, 3)]
    figure = Figure(figsize=(9, 4.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    _spectrogram(panels[0], log_mel)
    said = ["the input: 256 patches"]
    for axes, stage in zip(panels[1:], stages, strict=True):
        drawn = _draw_tokens(axes, log_mel, trace, stage)
        said.append(f"{trace.place(stage)}: {drawn}")
    for axes, text in zip(panels, said, strict=True):
        _finish(axes, log_mel, text, seconds)
    for axes in panels[2:]:
        axes.set_xlabel("time (s)", fontsize=8)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a PNG with few colours."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    figure.set_dpi(DPI)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


@torch.no_grad()
def main() -> None:
    every = ["recommended", *METHODS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(every)}; all by default")
    parser.add_argument("--trained", type=Path, help="folder of the fine-tuned models")
    given = parser.parse_args()
    if unknown := set(given.names) - set(every):
        parser.error(f"no such method as {', '.join(sorted(unknown))}")
    sound = ap.load_audio(CLIP)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, model, title in models(given.names or every, given.trained):
        length = round(SHORT.get(name, sound.heard_seconds) * 16_000)
        spectrogram = ap.load_features("esc10", model)([sound.waveform[:length]])
        with ap.trace(model) as trace:
            probabilities = model(spectrogram).logits.softmax(dim=1)[0]
        label = model.config.id2label[int(probabilities.argmax())]
        title = f"{title}\nheard: {label}, {float(probabilities.max()):.2f}"
        path = TARGET / f"{name}.png"
        save(draw(coarser(spectrogram[0].numpy()), trace, title, sound.heard_seconds), path)
        kept = [int((stage[0] >= 0).sum()) for stage in trace.kept]
        print(f"{name}: {label}; {kept}; {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
