"""Time a ViT-Base AudioMAE with random weights, pruned and unpruned, in onnxruntime and in PyTorch on the CPU.

    python -m benchmarks.onnx_runtime --files onnx-files/ --write-only
    python -m benchmarks.onnx_runtime --files onnx-files/ --out results/benchmarks-onnx.json

The script first writes and checks the files, which takes most of a minute for each file. With --files it keeps them, so
that you can run the race later on an idle machine. All contenders take turns, with as many threads in onnxruntime as in
PyTorch. The figure of a setting is its median. Its speed-up is the median of the rounds' ratios to the same runtime
unpruned. `--quick` takes a minute, with a small model, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch
from torch import Tensor

import audioprune as ap
from audioprune.attention.packing import available, pack
from audioprune.cli.console import err, progress
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from audioprune.methods import Method
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification
from audioprune.onnx.agreement import noise
from audioprune.onnx.export import OPSET, export_onnx, open_session

from .forward import pruning
from .turns import Contender, race, ratio

RATES = (1.0, 0.9, 0.7, 0.5)
CELLS = {512: (1, 4), 256: (4,)}
"""Tokens of a clip (patches of 16 × 16 at 128 mel channels) → batch sizes."""
QUICK_CELLS = {64: (1, 2)}
QUICK_SHAPE = {"hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 192}
ROUNDS = {1: 15, 4: 9}
"""Batch size → counted rounds."""


def built(tokens: int, quick: bool) -> AudioMAEForAudioClassification:
    """Build an AudioMAE for clips of so many tokens: a ViT-Base, or a small one."""
    torch.manual_seed(0)
    config = AudioMAEConfig(max_length=2 * tokens, num_labels=50, **(QUICK_SHAPE if quick else {}))
    return AudioMAEForAudioClassification(config).eval()


def method_at(rate: float, dropped: Any) -> Method | None:
    """Return the paper's method; None for no pruning."""
    return None if rate == 1 else ap.TopK(rate, dropped=dropped)


class Writer:
    """Writes the files that are missing."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options

    def __call__(self, model: Any, tokens: int, rate: float) -> Path:
        options = self.options
        size = "small" if options.quick else "base"
        path = self.folder / f"{size}-{tokens}-{options.dropped}-{rate:g}-opset{options.opset}.onnx"
        if not path.exists():
            with pruning(model, method_at(rate, options.dropped))():
                found = export_onnx(model, path, opset=options.opset)
            err.print(
                f"{path.name}: {found.nodes} nodes, error at most {found.difference:.0e} of the largest logit",
                soft_wrap=True,
            )
        return path


def contest(model: Any, batch: Tensor, files: dict[float, Path], dropped: str, rounds: int) -> list[dict[str, Any]]:
    """Make a row for each runtime and keep rate."""
    runtimes: dict[str, Callable[[float], Contender]] = {"onnxruntime": _of_files(files, batch)}
    runtimes["torch"] = _of_model(model, batch, dropped)
    if available():
        packed = copy.deepcopy(model)
        pack(packed, frozen=True)
        runtimes["torch packed"] = _of_model(packed, batch, dropped)
    contenders = {(name, rate): make(rate) for name, make in runtimes.items() for rate in files}
    race({f"{name} {rate}": contender for (name, rate), contender in contenders.items()}, rounds)
    macs = {rate: _macs(model, rate, dropped) for rate in files}
    rows = []
    for (name, rate), contender in contenders.items():
        row: dict[str, Any] = {"runtime": name, "keep_rate": rate, "latency_ms": 1000 * contender.median}
        row["speed_up"] = ratio(contenders[name, 1.0], contender)
        row["macs_ratio"] = macs[1.0] / macs[rate]
        row["speed_up_over_torch_at_this_rate"] = ratio(contenders["torch", rate], contender)
        rows.append(row | {"calls": contender.calls * len(contender.times)})
    return rows


def _of_files(files: dict[float, Path], batch: Tensor) -> Callable[[float], Contender]:
    inputs = {"input_values": batch.numpy()}

    def make(rate: float) -> Contender:
        session = open_session(files[rate])
        return Contender(lambda: session.run(None, inputs))

    return make


def _of_model(model: Any, batch: Tensor, dropped: str) -> Callable[[float], Contender]:
    return lambda rate: Contender(lambda: model(batch), pruning(model, method_at(rate, dropped)))


def _macs(model: Any, rate: float, dropped: str) -> int:
    """Count the multiply-accumulates of a clip."""
    setting: AbstractContextManager[Any] = pruning(model, method_at(rate, dropped))()
    with setting:
        return ap.macs(model)


def shown(tokens: int, batch_size: int, row: dict[str, Any]) -> str:
    """Format a line of the table."""
    return (
        f"{tokens:>6} {batch_size:>5} {row['runtime']:>12} {row['keep_rate']:>5g} {row['latency_ms']:>9.1f} "
        f"{row['speed_up']:>8.2f} {row['macs_ratio']:>5.2f} {row['speed_up_over_torch_at_this_rate']:>10.2f}"
    )


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Write the files, race and print; return the contests."""
    cells, write = QUICK_CELLS if options.quick else CELLS, Writer(folder, options)
    models = {tokens: built(tokens, options.quick) for tokens in cells}
    files: dict[int, dict[float, Path]] = {tokens: {} for tokens in cells}
    with progress("files") as bar:
        task = bar.add_task("Writing", total=len(models) * len(RATES))
        for tokens, model in models.items():
            for rate in RATES:
                files[tokens][rate] = write(model, tokens, rate)
                bar.advance(task)
    if options.write_only:
        return []
    columns = ("tokens", "batch", "runtime", "keep", "ms", "speed-up", "MACs", "over torch")
    print("{:>6} {:>5} {:>12} {:>5} {:>9} {:>8} {:>5} {:>10}".format(*columns))
    contests = []
    for tokens, batch_sizes in cells.items():
        for size in batch_sizes:
            batch = noise(size, (2 * tokens, 128))
            rounds = 1 if options.quick else options.rounds or ROUNDS.get(size, 5)
            rows = contest(models[tokens], batch, files[tokens], options.dropped, rounds)
            print("\n".join(shown(tokens, size, row) for row in rows), flush=True)
            contests.append({"tokens": tokens, "batch_size": size, "rounds": rounds, "rows": rows})
    return contests


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_runtime",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--files", type=Path, help="folder that keeps the ONNX files for a later run")
    parser.add_argument("--write-only", action="store_true", help="write the files and measure nothing")
    parser.add_argument("--dropped", choices=("discard", "fuse", "merge"), default="discard", help="default: discard")
    parser.add_argument("--opset", type=int, default=OPSET, help=f"version of ONNX's operators (default: {OPSET})")
    parser.add_argument("--rounds", type=int, help="rounds of timing (default: 15 for one clip, 9 for four)")
    parser.add_argument("--threads", type=int, help="threads of both runtimes (default: those of PyTorch)")
    parser.add_argument("--quick", action="store_true", help="a small model and one round, to see that everything runs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: it should be at least 1")
    if options.write_only and options.files is None:
        parser.error("--write-only needs --files, the folder that keeps the files")
    with TemporaryDirectory() as folder:
        contests = run(options, options.files or Path(folder))
    versions = machine() | {"onnxruntime": onnxruntime.__version__}
    setting = {"dropped": options.dropped, "opset": options.opset, "quick": options.quick}
    command = shlex.join(["python", "-m", "benchmarks.onnx_runtime", *sys.argv[1:]])
    if options.out is not None and contests:
        result = {"command": command, "machine": versions, **setting, "contests": contests}
        write_json(options.out, result)


if __name__ == "__main__":
    main()
