"""Time attention that scores on a GPU: the kernels beside attention by the map, by chunks, and without scores.

    python benchmarks/gpu_attention.py results/gpu-attention.json

First the script checks the kernels' answers against the map in float64. Then it times every contender in turn with CUDA
events, at lengths from a pruned clip to a long clip. `--tiny` runs the same script on the CPU through Triton's
interpreter, at sizes that say nothing about speed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from audioprune.attention import kernels
from audioprune.attention.pieces import attend_and_score
from audioprune.attention.scoring import received_attention
from audioprune.compare.benchmark import machine
from audioprune.files import write_json

HEADS, WIDTH, SPECIAL = 12, 64, 1
BATCHES = {512: 128, 1500: 32, 7500: 4}
"""Tokens → clips. If the map of all pairs leaves too little memory, fewer clips are used."""

BYTES_OF_A_PAIR = 16
"""Peak bytes of attention by the map: logits, weights in float32 and in the values' dtype, votes."""

CALLS_AT_ONCE = 5
"""Calls between two CUDA events. With several calls the processor is ahead of the GPU, as in a model."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
CHECKS = ((1, 0, 64), (130, 2, 24), (257, 1, 80), (512, 1, 64), (1500, 1, 128), (333, 0, 256))
"""Tokens, special tokens, width of a head."""

Contender = Callable[[Tensor, Tensor, Tensor, Tensor | None], Any]


def by_the_map(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute eager attention, and the mean of each column of its map."""
    logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + mask
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return weights @ value, received_attention(weights, SPECIAL)


def by_chunks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute attention in chunks of queries, as on a CPU."""
    return attend_and_score(query, key, value, query.shape[-1] ** -0.5, mask, SPECIAL)


def by_kernels(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute attention with `audioprune.attention.kernels`."""
    return kernels.attend_and_score(query, key, value, query.shape[-1] ** -0.5, mask, SPECIAL)


def without_scores(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute torch's fused attention without scores: the best possible time."""
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


CONTENDERS: dict[str, Contender] = {
    "map": by_the_map,
    "chunks": by_chunks,
    "kernels": by_kernels,
    "no scores": without_scores,
}


def made(device: str, dtype: torch.dtype, batch: int, n: int, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries, keys and values (batch, heads, n, width), with the heads of a token side by side as in a model."""
    query, key, value = torch.randn(3, batch, n, heads, width, device=device, dtype=dtype).transpose(2, 3)
    return query, key, value


def bias_of(batch: int, n: int, device: str, dtype: torch.dtype) -> Tensor:
    """Make a bias for sizes of merged tokens, and for filler at the end of the last row: (batch, 1, 1, n)."""
    bias = torch.randint(1, 9, (batch, 1, 1, n), device=device).to(dtype).log()
    bias[-1, ..., n - n // 4 :] = -torch.inf
    return bias


def errors(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, special: int) -> tuple[float, float]:
    """Return the largest errors of the kernels: of the context, and of the scores as shares of the largest score."""
    scaling, n = query.shape[-1] ** -0.5, query.shape[2]
    voters = torch.rand(len(query), n - special, device=query.device)
    context, received = kernels.attend_and_score(query, key, value, scaling, mask, special, voters)
    wide = [x.double() for x in (query, key, value)]
    logits = wide[0] @ wide[1].transpose(2, 3) * scaling
    weights = (logits if mask is None else logits + mask.double()).softmax(dim=-1)
    expected = received_attention(weights, special, voters.double())
    off = ((context.double() - weights @ wide[2]).abs().max(), (received - expected).abs().max() / expected.max())
    return float(off[0]), float(off[1])


def check(device: str, tiny: bool) -> list[dict[str, Any]]:
    """Check the kernels against the map in float64, in every dtype, with and without a bias.

    Raises `SystemExit` if they are wrong.
    """
    rows = []
    for name, dtype in DTYPES.items():
        for n, special, width in CHECKS[:3] if tiny else CHECKS:
            for biased in (False, True):
                tensors = made(device, dtype, 2, n, 3, width)
                mask = bias_of(2, n, device, dtype) if biased else None
                row = {"dtype": name, "tokens": n, "special": special, "width": width, "biased": biased}
                off = errors(*tensors, mask, special)
                # Contexts are about 1. The weights and the contexts are rounded to the dtype.
                bound = 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
                rows.append(row | judged(off, bound))
    if not tiny:
        rows.append(check_far_apart(device))
    wrong = [row for row in rows if not row["right"]]
    if wrong:
        raise SystemExit("wrong: " + "; ".join(map(str, wrong)))
    return rows


def check_far_apart(device: str) -> dict[str, Any]:
    """Check rows and clips that are further apart in memory than 32 bits can count."""
    n, apart = 40, 2**31 + 64
    memory = torch.zeros(apart + n * 2**26 + 2**12, device=device, dtype=torch.bfloat16)
    query = memory.as_strided((2, 2, n, 64), (apart, 64, 2**26, 1))
    query.copy_(torch.randn(2, 2, n, 64, device=device))
    off = errors(query, query, query, None, 1)
    bound = 8 * torch.finfo(torch.bfloat16).eps * float(query.abs().max())
    row = {"dtype": "bfloat16", "tokens": n, "special": 1, "width": 64, "biased": False, "far_apart": True}
    return row | judged(off, bound)


def judged(off: tuple[float, float], bound: float) -> dict[str, Any]:
    """Make the part of a row about its errors. bound: largest allowed error of the context."""
    return {"context_error": off[0], "score_error": off[1], "right": off[0] < bound and off[1] < 1e-4}


def milliseconds(call: Callable[[], Any], device: str) -> float:
    """Time a call: the mean of several calls by CUDA events on a GPU, one call by the clock on a CPU."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    for _ in range(CALLS_AT_ONCE):
        call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / CALLS_AT_ONCE


def peak_mib(call: Callable[[], Any], device: str) -> float | None:
    """Measure the MiB that a call needs on the GPU above what is there already; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def race(device: str, dtype: torch.dtype, batch: int, n: int, biased: bool, rounds: int) -> list[dict[str, Any]]:
    """Make a row for each contender: median milliseconds of a call, memory, and the time as a share of the map's."""
    tensors = made(device, dtype, batch, n, HEADS, WIDTH)
    mask = bias_of(batch, n, device, dtype) if biased else None
    calls = {name: partial(run, *tensors, mask) for name, run in CONTENDERS.items()}
    peaks = {name: peak_mib(call, device) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    shuffle, order = random.Random(0).shuffle, list(calls)
    for at in range(rounds + 1):
        for name in order:
            took = milliseconds(calls[name], device)
            if at:  # the first round warms up
                times[name].append(took)
        shuffle(order)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    shape = {"tokens": n, "batch_size": batch, "biased": biased}
    return [
        shape | {"contender": name, "ms": ms, "of_map": ms / medians["map"], "peak_mib": peaks[name], "rounds": rounds}
        for name, ms in medians.items()
    ]


def batch_of(n: int, most: int, device: str) -> int:
    """Choose the number of clips of n tokens so that the map fits into half of the free memory."""
    if device == "cpu":
        return most
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(most, free // 2 // (BYTES_OF_A_PAIR * HEADS * n * n)))


def shown(row: dict[str, Any]) -> str:
    """Format a row of the table."""
    peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    bias = "bias" if row["biased"] else ""
    return (
        f"{row['tokens']:>6} {row['batch_size']:>5} {bias:>5} {row['contender']:>10} {row['ms']:>10.3f} "
        f"{row['of_map']:>8.2f} {peak:>9}"
    )


@torch.no_grad()
def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check, race and print; return everything to keep."""
    device = "cpu" if args.tiny else "cuda"
    torch.manual_seed(0)
    checks = check(device, args.tiny)
    worst = {name: max(row[name] for row in checks) for name in ("context_error", "score_error")}
    print(f"{len(checks)} checks: right, off by at most {worst}", file=sys.stderr)
    print(f"{'tokens':>6} {'batch':>5} {'':>5} {'':>10} {'ms':>10} {'of map':>8} {'peak MiB':>9}")
    rows = []
    for n, most in ({17: 2, 70: 1} if args.tiny else BATCHES).items():
        for biased in (False, True):
            batch = batch_of(n, most, device)
            raced = race(device, DTYPES[args.dtype], batch, n, biased, 1 if args.tiny else args.rounds)
            print("\n".join(map(shown, raced)))
            rows += raced
    shape = {"heads": HEADS, "head_dim": WIDTH, "dtype": args.dtype, "tiny": args.tiny}
    return {"machine": machine(), **shape, "checks": checks, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="JSON file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="dtype of the tensors (default: bfloat16)")
    parser.add_argument(
        "--rounds", type=int, default=50, help=f"rounds of {CALLS_AT_ONCE} timed calls of each contender (default: 50)"
    )
    parser.add_argument("--tiny", action="store_true", help="run on the CPU through Triton's interpreter")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: it should be at least 1")
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: run this on a GPU, or with --tiny to try the script on a CPU")
    if not args.tiny and not kernels.available(torch.zeros(1, 1, 1, WIDTH, device="cuda", dtype=DTYPES[args.dtype])):
        raise SystemExit("the kernels cannot run here: they need Triton and a GPU of compute capability 8.0 or later")
    if args.tiny:
        from audioprune.attention.kernels.interpreter import interpreted
    with interpreted() if args.tiny else nullcontext():
        result = run(args)
    result = {"command": " ".join(["python", *sys.argv]), **result}
    if args.out is not None:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
