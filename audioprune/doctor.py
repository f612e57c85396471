"""Check of this machine and this installation, in a few seconds and without a network."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import soundfile
import torch
from huggingface_hub import constants as hub
from torch import nn

from .attention import kernels, packing
from .compare.benchmark import machine
from .core.cost import synchronize
from .core.pruning import prune
from .core.recommend import recommended
from .models.loading import load, load_features
from .models.sources import EMBEDDED
from .tagging.tagger import Tagger
from .timing import Ratio, take_turns

STEPS = 3
"""Number of times that `examine` calls `advance`."""
REQUIRED = ("torch", "transformers", "huggingface_hub", "safetensors", "numpy", "soundfile", "soxr", "typer")
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Format of sounds → libsndfile's names for it."""
CLIP, LABEL = "chainsaw.ogg", "chainsaw"
"""A clip that ships with the package, and the shipped model's label for it, pruned or not."""
FAST = 1.1
"""Least speed-up over float32 that counts as faster."""

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def examine(
    extras: Mapping[str, Sequence[str]],
    advance: Callable[[], Any] = lambda: None,
    needed_by: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Examine the installation; the result fits JSON. "works": whether sounds can be tagged; "next": what to do now.

    extras: name of an extra → the modules that it installs. needed_by: name of an extra → the commands that need it.
    """
    result: dict[str, Any] = {
        "versions": versions(extras),
        "machine": _machine(),
        "sounds": sounds(),
        "hub": {"cache": hub.HF_HUB_CACHE, "models": _cached(), "offline": hub.HF_HUB_OFFLINE},
        "extras": {name: _extra(name, modules, (needed_by or {}).get(name, ())) for name, modules in extras.items()},
        "kernels": _kernels(),
    }
    advance()
    result["speed"] = {
        device: speed(device) for device in ("cpu", "cuda") if device == "cpu" or torch.cuda.is_available()
    }
    advance()
    result["shipped_model"] = self_test()
    advance()
    works = result["shipped_model"]["works"]
    return result | {"works": works, "next": _next(works)}


def versions(extras: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Versions by package, None if it is not installed."""
    from . import __version__

    numbers: dict[str, str | None] = {"python": platform.python_version(), "audioprune": __version__}
    distributions = metadata.packages_distributions()
    for module in (*REQUIRED, *(name for modules in extras.values() for name in modules), "triton"):
        names = distributions.get(module, [module])
        numbers[names[0]] = metadata.version(names[0]) if find_spec(module) and module in distributions else None
    return numbers


def sounds() -> dict[str, Any]:
    """Formats of sounds that can be decoded."""
    decoded = {name: soundfile.check_format(*names) for name, names in FORMATS.items()}
    return {"libsndfile": soundfile.__libsndfile_version__, "decoded": decoded, "ffmpeg": _ffmpeg()}


def _ffmpeg() -> str | None:
    """Version of the FFmpeg that decodes the other formats; None without the extra media."""
    try:
        import av
    except ImportError:
        return None
    return av.ffmpeg_version_info


def speed(device: str, seconds: float = 0.25) -> dict[str, Any]:
    """Speed-up over PyTorch's float32 of a linear layer in bfloat16 and, on a CPU, packed in float32, with intervals.

    It is measured, because some processors support bfloat16 but are slower with it. The layer is that of a ViT-Base,
    for 512 tokens.
    """
    torch.manual_seed(0)
    layers = {"float32": nn.Linear(768, 768, device=device), "bfloat16": nn.Linear(768, 768, device=device).bfloat16()}
    if device == "cpu" and packing.available():
        layers["packed"] = nn.Linear(768, 768)
        packing.pack(nn.Sequential(layers["packed"]))
    # Enough tokens that a GPU's launch time does not dominate.
    tokens = torch.randn(512 if device == "cpu" else 32 * 512, 768, device=device)
    times = take_turns(
        [partial(_seconds, layer, tokens.to(layer.weight.dtype), device) for layer in layers.values()], seconds
    )
    float32, *others = times
    ratios = {name: Ratio.between(float32, took) for name, took in zip(list(layers)[1:], others, strict=True)}
    return {key: value for name, ratio in ratios.items() for key, value in ratio.as_dict(name).items()}


def self_test() -> dict[str, Any]:
    """Check that the shipped model gives the right label for one clip, unpruned and pruned."""
    clip = Path(__file__).parent / "assets" / "clips" / CLIP
    began = time.perf_counter()
    try:
        model = load(EMBEDDED)
        tagger = Tagger(model, load_features(EMBEDDED, model), top=1)
        answers = [next(tagger([clip]))]
        with prune(model, recommended(model)):
            answers.append(next(tagger([clip])))
    except Exception as error:  # any error here; the rest of the report helps to correct it
        return {"works": False, "clip": CLIP, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    labels = [answer["labels"][0]["label"] if "labels" in answer else answer["error"] for answer in answers]
    return {
        "works": labels == [LABEL, LABEL],
        "clip": CLIP,
        "unpruned": labels[0],
        "pruned": labels[1],
        "seconds": round(time.perf_counter() - began, 2),
    }


@torch.inference_mode()
def _seconds(layer: nn.Module, tokens: torch.Tensor, device: str) -> float:
    began = time.perf_counter()
    layer(tokens)
    synchronize(device)
    return time.perf_counter() - began


def _machine() -> dict[str, Any]:
    devices = [
        {
            "name": f"cuda:{i}",
            "kind": torch.cuda.get_device_name(i),
            "memory_bytes": torch.cuda.get_device_properties(i).total_memory,
        }
        for i in range(torch.cuda.device_count())
    ]
    return {
        "system": platform.platform(terse=True),
        "processor": machine()["processor"],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory(),
        "pytorch_kernels": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "devices": devices,
    }


def _memory() -> int | None:
    """Memory in bytes of this machine, or of the container if that has less; None if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return total


def _instructions() -> list[str]:
    """The processor's instructions that matter for matrix products; empty if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return [name for name in _INSTRUCTIONS if name in flags]


def _kernels() -> dict[str, Any]:
    """Whether the Triton kernels compute the scores of attention, and if not, the reason."""
    if sys.platform != "linux" or find_spec("triton") is None:
        return {"works": False, "why": "Triton is not installed"}
    if not torch.cuda.is_available():
        return {"works": False, "why": "they need a CUDA device, and there is none"}
    if not kernels.available(torch.empty(1, 1, 1, 64, device="cuda")):
        return {"works": False, "why": "this GPU is older than Ampere"}
    return {"works": True, "why": None}


def _extra(name: str, modules: Sequence[str], commands: Sequence[str] = ()) -> dict[str, Any]:
    missing = [module for module in modules if find_spec(module) is None]
    remedy = f"pip install 'audioprune[{name}]'" if missing else None
    return {"commands": list(commands), "missing": missing, "remedy": remedy}


def _cached() -> int:
    """Number of models in the hub's cache."""
    return sum(path.is_dir() for path in Path(hub.HF_HUB_CACHE).glob("models--*"))


def _next(works: bool) -> str:
    if works:
        return "audioprune demo (example clips), then audioprune tag MY-SOUNDS/ (your own)"
    return "pip install --force-reinstall audioprune, then audioprune doctor again"
