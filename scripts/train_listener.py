"""Train and test the listener, a small audio-language model, on scenes made of ESC-10 and spoken digits.

    python scripts/train_listener.py train --data PATH --out runs/listener/seed0
    python scripts/train_listener.py eval --model runs/listener/seed0/model --data PATH

PATH holds `esc10/` and `fsdd/`. If you kill the training and start it again, it continues from its last written state.
`--hold-out` keeps fold 4 and three takes of each digit out of the training, for choosing settings (`eval --part
validation`). ESC-10's fold 5 and the test takes of the digits are never used for training or for choosing.

With `--ear`, the encoder is that of a real Whisper model, frozen; an adapter and a language model learn:

    python scripts/train_listener.py hear --ear EAR --data PATH --out runs/ear/heard
    python scripts/train_listener.py train --ear EAR --heard runs/ear/heard --out runs/ear/seed0
    python scripts/train_listener.py eval --model runs/ear/seed0/model --data PATH

EAR is a folder with Whisper tiny.en in transformers' form, or openai/whisper-tiny.en where there is a network. PATH
holds `commands/` and `speech/` too. `hear` writes what the encoder hears of some thousands of scenes, and continues
where it stopped. A third of the speakers of every set, and fold 5, are in no training. `join` makes a whole model of
the released adapter and language model (scripts/release_listener.py writes them) and EAR.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from audioprune.files import draft, write_json
from listener import (
    EarSettings,
    EarTraining,
    ListenerTraining,
    Settings,
    held_out_sets,
    join_ear,
    make_ear_model,
    make_ear_processor,
    make_model,
    make_processor,
    read_heard,
    right_answers,
    summary,
    write_heard,
)
from listener.scenes import PARTS, read_recordings
from listener.timelines import read_voices

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
SETS = 5
SCENES = 60
FIRST_SEED = 9_000
"""First seed of the held-out sets. Trainings use small seeds."""


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    training = ear_training(args) if args.ear else scene_training(args)
    more: dict[str, Any] = {"heard": len(training.heard)} if isinstance(training, EarTraining) else {}
    if args.begin_with:
        more["begin_with"] = args.begin_with.name
    write_json(args.out / "settings.json", asdict(training.settings) | more)
    if args.begin_with and not (args.out / "state.pt").exists():
        training.begin_with(torch.load(args.begin_with / "state.pt", weights_only=True))
    if (args.out / "state.pt").exists():
        training.load_state(torch.load(args.out / "state.pt", weights_only=True))
        print(f"continuing after step {training.done}")
    checked = read_heard(args.check) if args.check else []
    run(training, args.out, args.save_every, lambda: accuracy(training, checked) if checked else {})
    training.result().save_pretrained(args.out / "model")
    training.processor.save_pretrained(args.out / "model")
    print(f"wrote {args.out / 'model'}")


def scene_training(args: argparse.Namespace) -> ListenerTraining:
    recordings = read_recordings(args.data, "learn" if args.hold_out else "train")
    processor = make_processor(args.mels)
    model = make_model(
        processor, width=args.width or 128, audio_heads=args.audio_heads, text_heads=args.text_heads or 4,
        audio_layers=args.audio_layers, text_layers=args.text_layers or 3, dropout=args.dropout, seed=args.seed,
    )  # fmt: skip
    names = ("local", "warmup", "weight_decay", "frame_weight", "seed")
    given = {name: getattr(args, name) for name in names} | chosen(args, ("steps", "batch", "thinned"))
    return ListenerTraining(model, processor, recordings, Settings(**given, **peak(args), bfloat16=not args.float32))


def ear_training(args: argparse.Namespace) -> EarTraining:
    processor = make_ear_processor(args.ear)
    model = make_ear_model(
        args.ear, processor, width=args.width or 128, heads=args.text_heads or 4, layers=args.text_layers or 3,
        seed=args.seed,
    )  # fmt: skip
    settings = EarSettings(**chosen(args, ("steps", "batch")), **peak(args), seed=args.seed)
    return EarTraining(model, processor, read_heard(*args.heard), settings)


def chosen(args: argparse.Namespace, names: tuple[str, ...]) -> dict:
    """The settings that were given on the command line."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def peak(args: argparse.Namespace) -> dict:
    return {} if args.lr is None else {"peak_lr": args.lr}


def accuracy(training: EarTraining, heard: list) -> dict[str, float]:
    """Percent right of each kind of question on held-out timelines: whole, and with a quarter of the tokens."""
    model = training.result()
    whole, thin = (right_answers(model, training.processor, heard, share) for share in (1.0, 0.25))
    return {kind: round(100 * whole[kind], 1) for kind in whole} | {f"{k}/4": round(100 * thin[k], 1) for k in thin}


def write_hearing(args: argparse.Namespace) -> None:
    """Write what the ear hears of timelines."""
    torch.set_num_threads(args.threads)
    processor = make_ear_processor(args.ear)
    model = make_ear_model(args.ear, processor).eval()
    with Progress(*COLUMNS, TimeRemainingColumn()) as progress:
        bar = progress.add_task("hearing", total=args.timelines)
        written = write_heard(
            model, processor.feature_extractor, lambda: read_voices(args.data, args.part), args.out,
            seed=args.seed, count=args.timelines, vary=args.part in ("train", "learn"),
        )  # fmt: skip
        for done in written:
            progress.update(bar, completed=done)


def join(args: argparse.Namespace) -> None:
    """Write the whole model of a released adapter and language model."""
    join_ear(args.model, args.ear).save_pretrained(args.out)
    AutoProcessor.from_pretrained(args.model).save_pretrained(args.out)
    print(f"wrote {args.out}")


def run(training: Any, out: Path, save_every: int, check: Callable[[], dict[str, float]]) -> None:
    """Train to the last step. `log.jsonl` gets a line of mean losses for every 50 steps, and what `check` returns
    whenever a state is written."""
    total, recent, begun = training.settings.total, [], time.time()
    with Progress(*COLUMNS, TimeRemainingColumn()) as progress, ThreadPoolExecutor(1) as ahead:
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
                if checked := check():
                    with (out / "log.jsonl").open("a") as log:
                        log.write(json.dumps({"step": training.done, **checked}) + "\n")
            progress.update(bar, completed=training.done)


def examine(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    first = FIRST_SEED + (1_000 if args.part != "test" else 0)
    sets = held_out_sets(processor, args.data, args.part, range(first, first + SETS), SCENES)
    report = {
        "kinds": summary(model, processor, sets),
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


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data", type=Path, help="folder with esc10/ and fsdd/; with an ear, commands/ and speech/ too"
    )
    shared.add_argument("--threads", type=int, default=1)
    hearing = commands.add_parser("hear", parents=[shared], help="write what a Whisper encoder hears of scenes")
    hearing.add_argument("--ear", required=True, help="folder or hub id of a Whisper model")
    hearing.add_argument("--out", type=Path, required=True)
    hearing.add_argument("--part", choices=PARTS, default="train")
    hearing.add_argument("--timelines", type=int, default=4000)
    hearing.add_argument("--seed", type=int, default=0)
    hearing.set_defaults(run=write_hearing)
    training = commands.add_parser("train", parents=[shared], help="train; start again to continue")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--ear", help="folder or hub id of a Whisper model, whose encoder hears and does not learn")
    training.add_argument("--heard", type=Path, nargs="+", help="with --ear: folders that `hear` wrote")
    training.add_argument(
        "--check", type=Path, help="with --ear: a folder of `hear --part validation` to log accuracy on"
    )
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--steps", type=int, help=f"default: {Settings.steps}; with an ear, {EarSettings.steps}")
    training.add_argument("--batch", type=int, help=f"default: {Settings.batch}")
    training.add_argument("--lr", type=float, help=f"default: {Settings.peak_lr}; with an ear, {EarSettings.peak_lr}")
    training.add_argument("--width", type=int, help="default: 128; with an ear, of the language model")
    training.add_argument("--text-heads", type=int, help="default: 4")
    training.add_argument("--text-layers", type=int, help="default: 3")
    training.add_argument("--begin-with", type=Path, help="folder of a training whose weights this one begins with")
    training.add_argument("--save-every", type=int, default=200, help="steps between two written states")
    own = training.add_argument_group("without --ear")
    own.add_argument("--hold-out", action="store_true", help="keep the validation recordings out of the training")
    own.add_argument("--thinned", type=int, help=f"further steps, on thinned sounds (default: {Settings.thinned})")
    own.add_argument("--local", type=int, default=Settings.local, help="steps with the encoder in windows")
    own.add_argument("--warmup", type=int, default=Settings.warmup, help="steps until the language model joins")
    own.add_argument("--weight-decay", type=float, default=Settings.weight_decay)
    own.add_argument("--frame-weight", type=float, default=Settings.frame_weight)
    own.add_argument("--float32", action="store_true", help="use no bfloat16, for machines on which it is slow")
    own.add_argument("--audio-heads", type=int, default=4)
    own.add_argument("--audio-layers", type=int, default=4)
    own.add_argument("--mels", type=int, default=64)
    own.add_argument("--dropout", type=float, default=0.0)
    training.set_defaults(run=train)
    joining = commands.add_parser("join", help="put Whisper's encoder into a released listener")
    joining.add_argument("--model", type=Path, required=True, help="folder with the adapter and the language model")
    joining.add_argument("--ear", required=True, help="folder or hub id of the Whisper model")
    joining.add_argument("--out", type=Path, required=True)
    joining.set_defaults(run=join)
    examination = commands.add_parser("eval", parents=[shared], help="ask about held-out scenes")
    examination.add_argument("--model", type=Path, required=True)
    examination.add_argument("--part", choices=("test", "validation"), default="test")
    examination.add_argument("--out", type=Path, help="default: eval.json beside the model's folder")
    examination.set_defaults(run=examine)
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Stop with a usage error where one argument lacks another."""
    hears = args.run is train and args.ear
    if hears and not args.heard:
        parser.error("--ear needs --heard: the folders that `hear` wrote")
    if not hears and args.run is not join and args.data is None:
        parser.error("--data is missing: the folder with esc10/ and fsdd/")


if __name__ == "__main__":
    chosen_parser = parser()
    args = chosen_parser.parse_args()
    check(chosen_parser, args)
    args.run(args)
