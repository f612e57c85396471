"""Latency of settings side by side, in turn."""

from __future__ import annotations

import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..adapters.blocks.adapter import find_blocks
from ..core.cost import macs, peak_memory, synchronize
from ..core.pruning import handle, prune
from ..methods import Method
from ..timing import Ratio, take_turns


def measure(
    model: PreTrainedModel,
    methods: Sequence[Method],
    batch_size: int,
    seconds: float = 2.0,
    advance: Callable[[], Any] = lambda: None,
    samples: int | None = None,
) -> list[dict[str, Any]]:
    """A row for each setting: MACs of a clip, median latency of a batch, memory, and ratios to the first setting,
    that of time with its interval (`audioprune.timing.Ratio`).

    The input is noise; a method that lets the sound decide has to be judged on sounds (`audioprune compare`).

    seconds: time to spend on each setting. Each round runs every setting once, so that drift hits all alike.
    samples: length of the clips, of a model that takes clips of any length.
    """
    adapter = find_blocks(model)
    shape = adapter.clip_shape(samples if adapter.frames is None else None)
    patches = adapter.patches_of(shape)
    inputs = torch.randn(batch_size, *shape, device=model.device, dtype=model.dtype)
    device = str(model.device)

    def run() -> None:
        _forward(model, inputs)

    rows: list[dict[str, Any]] = []
    for method in methods:
        with prune(model, method) as pruned:
            run()
            row = {"batch_size": batch_size, "keep_rate": method.keep_rate, "tokens": list(pruned.tokens_of(patches))}
            rows.append(row | {"macs": mean_macs(model, inputs[:1]), "peak_bytes": peak_memory(run, device=device)})
    timed = in_turn([(model, method, inputs) for method in methods], seconds, advance)
    for row, times in zip(rows, timed, strict=True):
        median = statistics.median(times)
        row |= {"latency_ms": 1000 * median, "clips_per_second": batch_size / median, "runs": len(times)}
        row |= {"macs_ratio": rows[0]["macs"] / row["macs"], **Ratio.between(timed[0], times).as_dict()}
    return rows


def mean_macs(model: PreTrainedModel, clips: Sequence[Tensor] | Tensor) -> int:
    """`macs` of one clip; where the sound or its length decides how many tokens stay, the mean over these, each on its
    own.

    clips: features of each, on the model's device.
    """
    pruned = handle(model)
    is_static = pruned is None or pruned.method.static
    if is_static and find_blocks(model).frames is not None:
        return macs(model)
    if is_static:  # by the length alone
        shapes = Counter(clip.shape for clip in clips)
        counted = {shape: macs(model, inputs=torch.empty(1, *shape, device="meta")) for shape in shapes}
        return round(statistics.fmean(counted[clip.shape] for clip in clips))
    return round(statistics.fmean(macs(model, inputs=clip[None]) for clip in clips))


def in_turn(
    settings: Sequence[tuple[PreTrainedModel, Method | None, Any]],
    seconds: float,
    advance: Callable[[], Any] = lambda: None,
    forward: Callable[[Any], Any] | None = None,
) -> list[list[float]]:
    """Seconds of each forward of each setting, for about `seconds` a setting and at least `timing.ROUNDS` forwards.

    settings: a model, how it is pruned (None: not at all) and its input, on its device. Each round runs every setting
        once, in an order of its own, so that drift and neighbours hit all alike; the first round is not counted.
    forward: what is timed, given an input; the model itself by default.
    """

    def timed(model: PreTrainedModel, method: Method | None, inputs: Any) -> float:
        with nullcontext() if method is None else prune(model, method):
            start = time.perf_counter()
            _forward(model, inputs, forward)
            return time.perf_counter() - start

    return take_turns([partial(timed, *setting) for setting in settings], seconds, advance)


@torch.inference_mode()
def _forward(model: Any, inputs: Any, forward: Callable[[Any], Any] | None = None) -> None:
    (forward or model)(inputs)
    synchronize(str(model.device))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    found = {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found
