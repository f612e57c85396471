"""audioprune: audio transformers that forget the tokens that don't matter, as they run.

import audioprune as ap

model = ap.load("esc10")
handle = ap.prune(model, ap.TopK(keep_rate=0.5))
handle.remove()
"""

from .adapters import UnsupportedModelError
from .audio import AudioError, Clip, load_audio
from .calibration import Calibration, calibrate
from .cost import macs
from .extractor import AudioMAEFeatureExtractor
from .features import PRESETS, LogMel
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
from .packing import Packed, pack
from .pruning import AlreadyPrunedError, Pruned, handle, prune
from .recommend import recommended
from .saved import load
from .trace import Trace, trace

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
