"""Every method at a representative setting. A new method meets every family, listed or not."""

from __future__ import annotations

import torch

from audioprune import (
    ATS,
    DPP,
    EVS,
    LTBM,
    METR,
    SAMAP,
    AToMe,
    AveragePooling,
    AViT,
    DivPrune,
    DynamicViT,
    EViT,
    FastAdaSP,
    FastAST,
    Method,
    PaddingMerge,
    PeakSegments,
    SegmentwiseTopK,
    SPViT,
    ToFu,
    ToMe,
    TopK,
    UniformStride,
    VisionZip,
)
from audioprune.core.pruning import Pruned
from audioprune.methods.chain import Chain
from audioprune.methods.names import TABLE, kind_of

METHODS: dict[str, Method] = {
    "topk": TopK(0.5),
    "topk-cls": TopK(0.5, score="cls"),
    "intensity": TopK(0.5, score="intensity"),
    "variation": TopK(0.5, score="variation"),
    "random": TopK(0.5, score="random", seed=3),
    "segments": TopK(0.7, segments=3),
    "segmentwise": SegmentwiseTopK(0.5),
    "fused": TopK((0.6, 0.5), layers=(0, 2), dropped="fuse"),
    "fused-random-segments": TopK(0.5, score="random", segments=4, dropped="fuse"),
    "merged": TopK(0.5, dropped="merge"),
    "merged-unsized": TopK(0.5, dropped="merge", proportional=False),
    "segments-merged": SegmentwiseTopK(0.5, dropped="merge"),
    "intensity-merged": TopK(0.5, score="intensity", dropped="merge", layers=(1, 3)),
    "evit": EViT(0.5),
    "evit-attention": EViT(0.5, score="attention"),
    "tome": ToMe(0.7),
    "tome-half-unsized": ToMe(0.5, proportional=False),
    "tome-constant": ToMe.constant(r=9, patches=64, depth=4),
    "tome-every-block": ToMe(0.75, layers=(0, 1, 2, 3), metric="hidden"),
    "tome-passes": ToMe((0.3, 0.2), layers=(0, 2), passes=3),
    "tome-passes-hidden": ToMe(0.4, layers=(1,), metric="hidden", passes=2, proportional=False),
    "tofu": ToFu(0.6),
    "tofu-early": ToFu((0.8, 0.7, 0.6), layers=(0, 1, 3), pruned_share=0.25),
    "fastast": FastAST(0.7),
    "ats": ATS(0.6),
    "ats-attention": ATS(0.6, score="attention"),
    "visionzip": VisionZip(0.6),
    "visionzip-cls": VisionZip((0.7, 0.4), layers=(0, 2), contextual=0.5, score="cls", proportional=False),
    "evs": EVS(0.6),
    "evs-merged": EVS(0.5, dropped="merge"),
    "divprune": DivPrune(0.5),
    "divprune-merged": DivPrune((0.4, 0.7), layers=(1, 2), dropped="merge", proportional=False),
    "dpp": DPP(0.5),
    "dpp-unscored-merged": DPP(0.6, score="none", dropped="merge"),
    "atome": AToMe(0.6),
    "atome-keys-unsized": AToMe((0.3, 0.7), layers=(0, 2), metric="keys", proportional=False),
    "fastadasp": FastAdaSP(0.6),
    "fastadasp-keys-unsized": FastAdaSP((0.3, 0.7), layers=(0, 2), metric="keys", proportional=False),
    "ltbm": LTBM(0.6, window=1),
    "ltbm-passes": LTBM((0.3, 0.4), layers=(0, 2), window=2, proportional=False),
    "ltbm-global-keys": LTBM(0.5, window=None, metric="keys"),
    "peaks": PeakSegments(0.6),
    "peaks-keys-unsized": PeakSegments((0.3, 0.7), layers=(0, 2), metric="keys", proportional=False),
    "samap": SAMAP(0.6, threshold=0.3),
    "samap-strict-unsized": SAMAP((0.5, 0.7), layers=(0, 2), proportional=False),
    "samap-lax": SAMAP(0.7, threshold=-1.0),
    "selective": TopK(0.5, score="selective"),
    "lowest": TopK(0.5, order="lowest"),
    "lowest-segments-merged": SegmentwiseTopK(0.5, order="lowest", dropped="merge"),
    "padding": PaddingMerge(0.2, margin=0),
    "padding-later": PaddingMerge(0.3, margin=0, layers=(1,)),
    "padding-by-clip": PaddingMerge(0.6, margin=0, layers=(0, 1), budget="clip"),
    "padding-then-before": Chain.of(
        [
            PaddingMerge(0.6, margin=0, layers=(0, 1), budget="clip"),
            ToMe(0.6, layers=(0, 1), metric="hidden", budget="clip", before=True),
        ]
    ),
    "tome-before": ToMe(0.7, metric="hidden", before=True),
    "padding-and-adjacent": Chain.of([PaddingMerge(0.2, margin=0), AToMe(0.8, layers=(1, 3), budget="clip")]),
    "padding-and-tome": Chain.of([PaddingMerge(0.05, margin=0), ToMe(0.7, layers=(1, 3), budget="clip")]),
    "padding-and-topk": Chain.of([PaddingMerge(0.2, margin=0), TopK(0.7, layers=(0, 2))]),
    "padding-and-fused": Chain.of([PaddingMerge(0.2, margin=0), TopK(0.7, layers=(2,), dropped="fuse")]),
    "uniform": UniformStride(0.6),
    "uniform-merged": UniformStride(0.5, dropped="merge"),
    "pooled": AveragePooling(0.6),
    "pooled-unsized": AveragePooling((0.3, 0.7), layers=(0, 2), proportional=False),
    "dynamicvit": DynamicViT(0.7),
    "dynamicvit-first": DynamicViT((0.8, 0.5), layers=(0, 3)),
    "spvit": SPViT(0.7),
    "spvit-first": SPViT(0.7, layers=(0, 1, 2, 3)),
    "avit": AViT(0.5, gamma=5.0, beta=1.0),
    "avit-slow": AViT(0.5, gamma=3.0, beta=1.0, epsilon=0.1),
    "metr": METR(0.5),
    "metr-attention": METR(0.5, score="attention"),
}

METHODS |= {
    entry.word: kind_of(entry)(0.7)
    for entry in TABLE
    if kind_of(entry) not in {type(method) for method in METHODS.values()}
}
"""A method that is not listed meets every family at its defaults."""


@torch.no_grad()
def teach(handle: Pruned) -> None:
    """Weights for what a method learns, always the same, large enough that tokens differ, and as if from a training."""
    if handle.learned is None:
        return
    generator = torch.Generator().manual_seed(5)
    for name, parameter in handle.learned.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(drawn * 2 / parameter.shape[1] ** 0.5)
        elif name.endswith("bias"):
            parameter.copy_(drawn * 0.1)
        if name.endswith("leave.0.weight"):  # the mean, which all tokens share, would have all of them go or stay
            parameter[:, parameter.shape[1] // 2 :] *= 0.1
        if name.endswith("leave.4.bias"):
            parameter += torch.tensor([0.3, -0.3])
    if hasattr(handle.learned, "trained"):
        handle.learned.trained.fill_(1)
