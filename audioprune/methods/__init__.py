"""What to keep. Methods know no models."""

from .adjacent import AToMe, FastAdaSP
from .ats import ATS
from .avit import AViT
from .base import Method
from .baselines import AveragePooling, UniformStride
from .diversity import DPP, DivPrune
from .dynamicvit import DynamicViT
from .evit import EViT
from .evs import EVS
from .learned import LearnedMethod, UntrainedError
from .metr import METR
from .spvit import SPViT
from .tofu import ToFu
from .tome import FastAST, ToMe
from .topk import SegmentwiseTopK, TopK
from .visionzip import VisionZip

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        TopK,
        SegmentwiseTopK,
        EViT,
        ToMe,
        ToFu,
        FastAST,
        ATS,
        VisionZip,
        EVS,
        DivPrune,
        DPP,
        AToMe,
        FastAdaSP,
        UniformStride,
        AveragePooling,
        DynamicViT,
        SPViT,
        AViT,
        METR,
    )
}
"""Names that settings may use."""

__all__ = [
    "ATS",
    "DPP",
    "EVS",
    "METHODS",
    "METR",
    "AToMe",
    "AViT",
    "AveragePooling",
    "DivPrune",
    "DynamicViT",
    "EViT",
    "FastAST",
    "FastAdaSP",
    "LearnedMethod",
    "Method",
    "SPViT",
    "SegmentwiseTopK",
    "ToFu",
    "ToMe",
    "TopK",
    "UniformStride",
    "UntrainedError",
    "VisionZip",
]
