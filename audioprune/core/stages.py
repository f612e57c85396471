"""What each stage of a forward left, and which token holds which patch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import ops
from .tokens import NO_PATCH


@dataclass(frozen=True)
class Stage:
    """A trace's record of one stage.

    kept, destination: as in `Reduction`. scores, candidates: (batch, n) of the tokens before it and their patches,
    `NO_PATCH` for a fused token and for filler.
    """

    kept: Tensor
    scores: Tensor
    candidates: Tensor
    destination: Tensor | None


def holders(stages: Iterable[Stage], patches: int) -> Iterator[Tensor]:
    """(batch, patches) for each stage: the token that holds each input patch after it, -1 where it was forgotten."""
    holder = None
    for stage in stages:
        if holder is None:
            # The tokens before the first stage are the patches themselves, but for those that were padding.
            count = stage.candidates.shape[1]
            holder = torch.arange(patches, device=stage.kept.device).expand(len(stage.kept), -1)
            holder = torch.where(pad(stage.candidates, (0, patches - count), value=NO_PATCH) < 0, -1, holder)
        destination = stage.destination
        if destination is None:
            destination = ops.places_of(stage.kept, stage.candidates.shape[1])
        holder = torch.where(holder < 0, -1, destination.gather(1, holder.clamp_min(0)))
        yield holder
