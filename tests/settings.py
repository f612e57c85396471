"""Every method at a representative setting. A new method is listed here once and meets every family."""

from __future__ import annotations

from audioprune import Method, SegmentwiseTopK, TopK

METHODS: dict[str, Method] = {
    "topk": TopK(0.5),
    "topk-cls": TopK(0.5, score="cls"),
    "intensity": TopK(0.5, score="intensity"),
    "variation": TopK(0.5, score="variation"),
    "random": TopK(0.5, score="random", seed=3),
    "segments": TopK(0.7, segments=3),
    "segmentwise": SegmentwiseTopK(0.5),
    "evit": TopK(0.5, score="cls", dropped="fuse"),
    "fused": TopK((0.6, 0.5), layers=(0, 2), dropped="fuse"),
    "fused-random-segments": TopK(0.5, score="random", segments=4, dropped="fuse"),
    "merged": TopK(0.5, dropped="merge"),
    "segments-merged": SegmentwiseTopK(0.5, dropped="merge"),
    "intensity-merged": TopK(0.5, score="intensity", dropped="merge", layers=(1, 3)),
}
