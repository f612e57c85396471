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

from .methods import names as _names

if TYPE_CHECKING:  # each `as` tells type checkers that the name is public
    from .adapters import UnsupportedModelError as UnsupportedModelError
    from .attention.packing import Packed as Packed
    from .attention.packing import pack as pack
    from .audio.extractor import AudioMAEFeatureExtractor as AudioMAEFeatureExtractor
    from .audio.features import PRESETS as PRESETS
    from .audio.features import LogMel as LogMel
    from .audio.files import AudioError as AudioError
    from .audio.files import Clip as Clip
    from .audio.files import load_audio as load_audio
    from .calibration import Calibration as Calibration
    from .calibration import calibrate as calibrate
    from .core.cost import macs as macs
    from .core.pruning import AlreadyPrunedError as AlreadyPrunedError
    from .core.pruning import Pruned as Pruned
    from .core.pruning import handle as handle
    from .core.pruning import prune as prune
    from .core.recommend import recommended as recommended
    from .core.saved import load as load
    from .core.trace import Trace as Trace
    from .core.trace import trace as trace
    from .methods import ATS as ATS
    from .methods import DPP as DPP
    from .methods import EVS as EVS
    from .methods import LTBM as LTBM
    from .methods import METR as METR
    from .methods import SAMAP as SAMAP
    from .methods import AToMe as AToMe
    from .methods import AveragePooling as AveragePooling
    from .methods import AViT as AViT
    from .methods import DivPrune as DivPrune
    from .methods import DynamicViT as DynamicViT
    from .methods import EViT as EViT
    from .methods import FastAdaSP as FastAdaSP
    from .methods import FastAST as FastAST
    from .methods import Method as Method
    from .methods import PaddingMerge as PaddingMerge
    from .methods import PeakSegments as PeakSegments
    from .methods import SegmentwiseTopK as SegmentwiseTopK
    from .methods import SPViT as SPViT
    from .methods import ToFu as ToFu
    from .methods import ToMe as ToMe
    from .methods import TopK as TopK
    from .methods import UniformStride as UniformStride
    from .methods import UntrainedError as UntrainedError
    from .methods import VisionZip as VisionZip
    from .models.loading import load_features as load_features
    from .models.state import CheckpointError as CheckpointError
    from .tagging.pipeline import LongAudioClassificationPipeline as LongAudioClassificationPipeline
    from .tagging.stream import Stream as Stream
    from .transcribing.transcriber import transcribe as transcribe

__version__ = "0.2.0"

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
    "Method": "methods",
    "UntrainedError": "methods",
    "load_features": "models.loading",
    "CheckpointError": "models.weights",
    "LongAudioClassificationPipeline": "tagging.pipeline",
    "Stream": "tagging.stream",
    "transcribe": "transcribing.transcriber",
}
"""Public name → the module that it is in."""
_MODULES |= {entry.kind: "methods" for entry in _names.TABLE}

__all__ = sorted(_MODULES)


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
