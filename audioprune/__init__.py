"""audioprune: audio transformers that forget the tokens that don't matter, as they run.

import audioprune as ap

model = ap.load("esc10")
handle = ap.prune(model, ap.TopK(keep_rate=0.5))
handle.remove()

Names are imported at their first use: PyTorch and transformers, which take seconds, are loaded by what needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import UnsupportedModelError
    from .attention.packing import Packed, pack
    from .audio.extractor import AudioMAEFeatureExtractor
    from .audio.features import PRESETS, LogMel
    from .audio.files import AudioError, Clip, load_audio
    from .calibration import Calibration, calibrate
    from .core.cost import macs
    from .core.pruning import AlreadyPrunedError, Pruned, handle, prune
    from .core.recommend import recommended
    from .core.saved import load
    from .core.trace import Trace, trace
    from .methods import (
        ATS,
        DPP,
        EVS,
        METR,
        AToMe,
        AveragePooling,
        AViT,
        DivPrune,
        DynamicViT,
        EViT,
        FastAdaSP,
        FastAST,
        Method,
        SegmentwiseTopK,
        SPViT,
        ToFu,
        ToMe,
        TopK,
        UniformStride,
        UntrainedError,
        VisionZip,
    )
    from .models.loading import load_features
    from .models.weights import CheckpointError

__version__ = "0.1.0"

__all__ = [
    "ATS",
    "DPP",
    "EVS",
    "METR",
    "PRESETS",
    "AToMe",
    "AViT",
    "AlreadyPrunedError",
    "AudioError",
    "AudioMAEFeatureExtractor",
    "AveragePooling",
    "Calibration",
    "CheckpointError",
    "Clip",
    "DivPrune",
    "DynamicViT",
    "EViT",
    "FastAST",
    "FastAdaSP",
    "LogMel",
    "Method",
    "Packed",
    "Pruned",
    "SPViT",
    "SegmentwiseTopK",
    "ToFu",
    "ToMe",
    "TopK",
    "Trace",
    "UniformStride",
    "UnsupportedModelError",
    "UntrainedError",
    "VisionZip",
    "calibrate",
    "handle",
    "load",
    "load_audio",
    "load_features",
    "macs",
    "pack",
    "prune",
    "recommended",
    "trace",
]

_MODULES = {
    "UnsupportedModelError": "adapters",
    "Packed": "attention.packing",
    "pack": "attention.packing",
    "AudioMAEFeatureExtractor": "audio.extractor",
    "LogMel": "audio.features",
    "PRESETS": "audio.features",
    "AudioError": "audio.files",
    "Clip": "audio.files",
    "load_audio": "audio.files",
    "Calibration": "calibration",
    "calibrate": "calibration",
    "macs": "core.cost",
    "AlreadyPrunedError": "core.pruning",
    "Pruned": "core.pruning",
    "handle": "core.pruning",
    "prune": "core.pruning",
    "recommended": "core.recommend",
    "load": "core.saved",
    "Trace": "core.trace",
    "trace": "core.trace",
    "ATS": "methods",
    "AToMe": "methods",
    "AViT": "methods",
    "AveragePooling": "methods",
    "DPP": "methods",
    "DivPrune": "methods",
    "DynamicViT": "methods",
    "EVS": "methods",
    "EViT": "methods",
    "FastAST": "methods",
    "FastAdaSP": "methods",
    "METR": "methods",
    "Method": "methods",
    "SPViT": "methods",
    "SegmentwiseTopK": "methods",
    "ToFu": "methods",
    "ToMe": "methods",
    "TopK": "methods",
    "UniformStride": "methods",
    "UntrainedError": "methods",
    "VisionZip": "methods",
    "load_features": "models.loading",
    "CheckpointError": "models.weights",
}
"""Public name → the module that it is in."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # from now on without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


from .registration import register_with_transformers  # noqa: E402

register_with_transformers()
