"""What to keep. Methods know no models."""

from .ats import ATS
from .avit import AViT
from .base import Method
from .baselines import AveragePooling, UniformStride
from .dynamicvit import DynamicViT
from .evit import EViT
from .learned import LearnedMethod, UntrainedError
from .metr import METR
from .spvit import SPViT
from .tofu import ToFu
from .tome import FastAST, ToMe
from .topk import SegmentwiseTopK, TopK

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
    "METHODS",
    "METR",
    "AViT",
    "AveragePooling",
    "DynamicViT",
    "EViT",
    "FastAST",
    "LearnedMethod",
    "Method",
    "SPViT",
    "SegmentwiseTopK",
    "ToFu",
    "ToMe",
    "TopK",
    "UniformStride",
    "UntrainedError",
]
