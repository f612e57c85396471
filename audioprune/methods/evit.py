"""EViT: CLS attention, and one fused token of what it passes over."""

from __future__ import annotations

from dataclasses import dataclass

from .topk import TopK


@dataclass(frozen=True)
class EViT(TopK):
    """Keep the tokens that CLS attends to most, and fuse the others into one more token, Σ aᵢ·xᵢ.

    Not All Patches Are What You Need (Liang et al., arXiv 2202.07800), as its official code: the shares aᵢ are not
    normalised over the dropped tokens. The named form of `TopK(score="cls", dropped="fuse")`.
    """

    score: str = "cls"
    dropped: str = "fuse"
