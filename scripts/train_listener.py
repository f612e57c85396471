"""Train and test the listener, a small audio-language model, on scenes made of ESC-10 and spoken digits.

    python scripts/train_listener.py train --data PATH --out runs/listener/seed0
    python scripts/train_listener.py eval --model runs/listener/seed0/model --data PATH

PATH holds `esc10/` and `fsdd/`. If you kill the training and start it again, it continues from its last written state.
`--hold-out` keeps fold 4 and three takes of each digit out of the training, for choosing settings (`eval --part
validation`). ESC-10's fold 5 and the test takes of the digits are never used for training or for choosing.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from audioprune.files import draft, write_json
from listener import (
    ListenerTraining,
    Settings,
    blind,
    evaluate,
    make_model,
    make_processor,
    silenced,
)
from listener.scenes import KINDS, Scene, make_scenes, read_recordings

SETS = 5
SCENES = 60
FIRST_SEED = 9_000
"""First seed of the held-out sets. Trainings use small seeds."""


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    recordings = read_recordings(args.data, "learn" if args.hold_out else "train")
    processor = make_processor(args.mels)
    model = make_model(
        processor, width=args.width, audio_heads=args.audio_heads, text_heads=args.text_heads,
        audio_layers=args.audio_layers, text_layers=args.text_layers, dropout=args.dropout, seed=args.seed,
    )  # fmt: skip
    settings = Settings(
        steps=args.steps, local=args.local, warmup=args.warmup, batch=args.batch, peak_lr=args.lr,
        bfloat16=not args.float32, weight_decay=args.weight_decay, frame_weight=args.frame_weight, seed=args.seed,
        thinned=args.thinned,
    )  # fmt: skip
    write_json(args.out / "settings.json", asdict(settings))
    training = ListenerTraining(model, processor, recordings, settings)
    if (args.out / "state.pt").exists():
        training.load_state(torch.load(args.out / "state.pt", weights_only=True))
        print(f"continuing after step {training.done}")
    run(training, args.out, args.save_every)
    training.result().save_pretrained(args.out / "model")
    processor.save_pretrained(args.out / "model")
    print(f"wrote {args.out / 'model'}")


def run(training: ListenerTraining, out: Path, save_every: int) -> None:
    """Train to the last step. `log.jsonl` gets a line of mean losses for every 50 steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    total, recent, begun = training.settings.total, [], time.time()
    with Progress(*columns, TimeRemainingColumn()) as progress, ThreadPoolExecutor(1) as ahead:
        bar = progress.add_task("training", total=total, completed=training.done)
        coming = ahead.submit(training.batch, training.done)
        while training.done < total:
            batch = coming.result()
            if training.done + 1 < total:
                coming = ahead.submit(training.batch, training.done + 1)
            recent.append(training.step(batch))
            if training.done % 50 == 0 or training.done == total:
                means = {name: round(float(np.mean([r[name] for r in recent if name in r])), 4) for name in recent[-1]}
                line = {"step": training.done, "seconds": round(time.time() - begun, 1), **means}
                with (out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                progress.update(bar, description=" ".join(f"{k} {v:.3f}" for k, v in means.items()))
                recent = []
            if training.done % save_every == 0 or training.done == total:
                with draft(out / "state.pt") as made:
                    torch.save(training.state(), made)
            progress.update(bar, completed=training.done)


def examine(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    recordings = read_recordings(args.data, args.part)
    first = FIRST_SEED + (1_000 if args.part != "test" else 0)
    sets = [make_scenes(recordings, first + i, SCENES) for i in range(SETS)]
    report = summary(model, processor, sets) | {
        "part": args.part,
        "sets": SETS,
        "scenes": SCENES,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    text = json.dumps(report, indent=2)
    print(text)
    (args.out or args.model.parent / ("eval.json" if args.part == "test" else f"eval-{args.part}.json")).write_text(
        text + "\n"
    )


def summary(model: Qwen2AudioForConditionalGeneration, processor: object, sets: list[list[Scene]]) -> dict:
    """Return the percent right (mean and standard deviation over the sets), with and without hearing the sound."""
    heard = [evaluate(model, processor, scenes) for scenes in sets]
    deaf = evaluate(model, processor, silenced([scene for scenes in sets for scene in scenes]))
    fixed = blind([scene for scenes in sets for scene in scenes])
    report = {}
    for kind in KINDS:
        shares = [100 * float(np.mean(right[kind])) for right in heard]
        silence, constant = 100 * float(np.mean(deaf[kind])), 100 * fixed[kind]
        report[kind] = {
            "mean": round(float(np.mean(shares)), 2),
            "std": round(float(np.std(shares, ddof=1)), 2),
            "sets": [round(share, 1) for share in shares],
            "given silence": round(silence, 2),
            "best fixed answer": round(constant, 2),
            "text only": round(max(silence, constant), 2),
        }
    return {"kinds": report}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", type=Path, required=True, help="folder with esc10/ and fsdd/")
    shared.add_argument("--threads", type=int, default=1)
    training = commands.add_parser("train", parents=[shared])
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--hold-out", action="store_true", help="keep the validation recordings out of the training")
    training.add_argument("--steps", type=int, default=Settings.steps)
    training.add_argument("--thinned", type=int, default=Settings.thinned, help="further steps, on thinned sounds")
    training.add_argument("--local", type=int, default=Settings.local, help="steps with the encoder in windows")
    training.add_argument("--warmup", type=int, default=Settings.warmup, help="steps until the language model joins")
    training.add_argument("--batch", type=int, default=Settings.batch)
    training.add_argument("--lr", type=float, default=Settings.peak_lr)
    training.add_argument("--weight-decay", type=float, default=Settings.weight_decay)
    training.add_argument("--frame-weight", type=float, default=Settings.frame_weight)
    training.add_argument("--float32", action="store_true", help="use no bfloat16, for machines on which it is slow")
    training.add_argument("--width", type=int, default=128)
    training.add_argument("--audio-heads", type=int, default=4)
    training.add_argument("--text-heads", type=int, default=4)
    training.add_argument("--audio-layers", type=int, default=4)
    training.add_argument("--text-layers", type=int, default=3)
    training.add_argument("--mels", type=int, default=64)
    training.add_argument("--dropout", type=float, default=0.0)
    training.add_argument("--save-every", type=int, default=200, help="steps between two written states")
    training.set_defaults(run=train)
    examination = commands.add_parser("eval", parents=[shared])
    examination.add_argument("--model", type=Path, required=True)
    examination.add_argument("--part", choices=("test", "validation"), default="test")
    examination.add_argument("--out", type=Path, help="default: eval.json beside the model's folder")
    examination.set_defaults(run=examine)
    return parser


if __name__ == "__main__":
    args = parser().parse_args()
    args.run(args)
