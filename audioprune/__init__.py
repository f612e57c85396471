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
from .methods import Method, SegmentwiseTopK, TopK
from .models.loading import load, load_features
from .models.weights import CheckpointError
from .pruning import AlreadyPrunedError, Pruned, handle, prune
from .trace import Trace, trace

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AlreadyPrunedError",
    "AudioError",
    "AudioMAEFeatureExtractor",
    "CheckpointError",
    "Clip",
    "LogMel",
    "Method",
    "Pruned",
    "SegmentwiseTopK",
    "TopK",
    "Trace",
    "UnsupportedModelError",
    "handle",
    "load",
    "load_audio",
    "load_features",
    "macs",
    "prune",
    "trace",
]
