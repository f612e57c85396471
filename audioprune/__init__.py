"""audioprune: audio transformers that forget the tokens that don't matter, as they run.

import audioprune as ap

model = ap.load("esc10")
handle = ap.prune(model, ap.TopK(keep_rate=0.5))
handle.remove()
"""

from .adapters import UnsupportedModelError
from .audio import AudioError, Clip, load_audio
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
from .models.loading import load, load_features
from .models.weights import CheckpointError
from .pruning import AlreadyPrunedError, Pruned, handle, prune
from .recommend import recommended
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
    "CheckpointError",
    "Clip",
    "DivPrune",
    "DynamicViT",
    "EViT",
    "FastAST",
    "FastAdaSP",
    "LogMel",
    "Method",
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
    "handle",
    "load",
    "load_audio",
    "load_features",
    "macs",
    "prune",
    "recommended",
    "trace",
]
