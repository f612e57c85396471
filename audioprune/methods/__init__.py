"""What to keep. Methods know no models.

`names.TABLE` lists the methods. Their files, which import PyTorch, are loaded at the first use of a name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import names

if TYPE_CHECKING:  # for type checkers and editors
    from .adjacent import AToMe as AToMe
    from .adjacent import FastAdaSP as FastAdaSP
    from .adjacent import PeakSegments as PeakSegments
    from .ats import ATS as ATS
    from .avit import AViT as AViT
    from .base import Method as Method
    from .baselines import AveragePooling as AveragePooling
    from .baselines import UniformStride as UniformStride
    from .diversity import DPP as DPP
    from .diversity import DivPrune as DivPrune
    from .dynamicvit import DynamicViT as DynamicViT
    from .evit import EViT as EViT
    from .evs import EVS as EVS
    from .learned import LearnedMethod as LearnedMethod
    from .learned import UntrainedError as UntrainedError
    from .ltbm import LTBM as LTBM
    from .metr import METR as METR
    from .padding import PaddingMerge as PaddingMerge
    from .samap import SAMAP as SAMAP
    from .spvit import SPViT as SPViT
    from .tofu import ToFu as ToFu
    from .tome import FastAST as FastAST
    from .tome import ToMe as ToMe
    from .topk import SegmentwiseTopK as SegmentwiseTopK
    from .topk import TopK as TopK
    from .visionzip import VisionZip as VisionZip

    METHODS: dict[str, type[Method]]
    """Class name → class: the names that settings files may use."""

_MODULES = {entry.kind: entry.module for entry in names.TABLE}
_MODULES |= {"Method": "base", "LearnedMethod": "learned", "UntrainedError": "learned"}


def __getattr__(name: str) -> Any:
    if name == "METHODS":
        value: Any = {entry.kind: names.kind_of(entry) for entry in names.TABLE}
    elif name in _MODULES:
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # from now on without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "METHODS"})
