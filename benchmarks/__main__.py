"""Run all contests with one command: `python -m benchmarks --out results/benchmarks.json`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audioprune.attention import packing
from audioprune.cli.console import err, progress
from audioprune.compare.benchmark import machine
from audioprune.files import write_json

from . import block, compiled, forward, front, limit, packed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS, BATCHES, RATES = (512, 256, 64), (4, 1, 16), (0.9, 0.7, 0.5)
ROUNDS = {1: 9, 4: 7, 16: 3}
"""Batch size → counted rounds."""
PARTS = ("forward", "block", "compiled", "packed", "features", "tag")

EPILOG = """
Every contest runs its contenders in turn, in an order that changes each round. It reports medians, and for speed-ups
the median of the rounds' ratios. The figures of each part are written as they come. If a run is stopped, start it again
with the same --out: it continues where it stopped. Close other programs first. It takes about 35 minutes on two cores.
`--quick` takes one minute, at tiny size, and says nothing about speed.
"""


def main() -> None:
    """Parse the options, and run the contests that are not in the file yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=EPILOG)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks.json"), help="JSON file for the figures")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES), help="dtypes of the forward")
    parser.add_argument("--tokens", nargs="+", type=int, choices=TOKENS, default=TOKENS, help="tokens of the forward")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="batch sizes of the forward")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="keep rates of the forward")
    parser.add_argument("--sounds", type=Path, help="folder of sounds for `tag`, such as ESC-10's audio")
    parser.add_argument("--clips", type=int, default=400, help="sounds to tag")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: one for each core)")
    parser.add_argument("--quick", action="store_true", help="tiny models and one round, to see that everything runs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        run(options)
    except KeyboardInterrupt:
        err.print(f"Stopped. The figures so far are in {options.out}; the same command continues from there.")
        sys.exit(130)


def run(options: argparse.Namespace) -> None:
    found = _read(options.out)
    found |= {"command": "python -m benchmarks", "machine": machine() | limit.describe()}
    todo = [(key, job) for key, job in jobs(options) if key not in found]
    with progress("contests") as bar:
        task = bar.add_task("Measuring", total=sum(1 for _ in todo))
        for key, job in todo:
            bar.update(task, description=key)
            found[key] = job()
            bar.advance(task)
            write_json(options.out, found)
    err.print(f"{len(todo)} contests → {options.out}")


def jobs(options: argparse.Namespace) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """List what to measure, each under its key in the file."""
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    rates = sorted(options.rates, reverse=True)
    if "forward" in options.only:
        for dtype in options.dtypes:
            for tokens in options.tokens:
                for batch in options.batches:
                    rounds = 1 if options.quick else ROUNDS.get(batch, 5)
                    setting = (tokens, batch, DTYPES[dtype], rates, options.quick)
                    found.append((f"forward {dtype} {tokens}×{batch}", _forward(setting, rounds)))
    rounds = 1 if options.quick else 15
    if "block" in options.only:
        found.append(("block", lambda: block.measure(rounds, lambda: None)))
    if "compiled" in options.only:
        for dtype in options.dtypes:
            found.append((f"compiled {dtype}", _compiled(DTYPES[dtype], 1 if options.quick else 5)))
    if "packed" in options.only and packing.available():
        for tokens in options.tokens:
            for batch in options.batches:
                setting = (tokens, batch, 1 if options.quick else ROUNDS.get(batch, 5), options.quick)
                found.append((f"packed {tokens}×{batch}", _packed(setting)))
    if "features" in options.only:
        found.append(("features", lambda: front.features(rounds, lambda: None)))
    if "tag" in options.only:
        if options.sounds is None:
            err.print("tag is left out, because --sounds names no folder")
        else:
            clips = 8 if options.quick else options.clips
            found.append(("tag", lambda: front.tagging(options.sounds, 0.5, clips, lambda: None)))
    return found


def _forward(setting: tuple[Any, ...], rounds: int) -> Callable[[], dict[str, Any]]:
    return lambda: forward.Field(*setting).measure(rounds, lambda: None)


def _compiled(dtype: torch.dtype, rounds: int) -> Callable[[], dict[str, Any]]:
    return lambda: compiled.measure(dtype, rounds, lambda: None)


def _packed(setting: tuple[Any, ...]) -> Callable[[], dict[str, Any]]:
    return lambda: packed.measure(*setting)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise SystemExit(f"{path}: not a file of figures ({error}); choose another --out") from error


if __name__ == "__main__":
    main()
