"""A model's answers on clips, unpruned and pruned, each computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .. import fingerprints
from ..compare.agreement import divergences, pooled, same_top
from ..core.pruning import prune
from ..methods import Method
from .ledger import Ledger

Inputs = dict[str, Tensor]
Batches = Tensor | Mapping[str, Tensor] | Sequence[Tensor | Mapping[str, Tensor]]


@dataclass(frozen=True)
class Disagreement:
    """What a setting made of so many clips. kl: mean KL(unpruned ‖ pruned) of the outputs, in nats."""

    clips: int
    disagreements: int
    kl: float

    @property
    def share(self) -> float:
        return self.disagreements / self.clips

    @property
    def risk(self) -> tuple[float, float]:
        """By which settings are ranked: KL tells those apart that disagree equally often."""
        return self.share, self.kl


class ClipSet:
    """Clips as a model's forward takes them, in batches of any size.

    batches: (clips, …), the model's main input; or the arguments of its forward, a clip a row; or several of either.
    recordings: of each row the recording that it is a window of, 0 … n - 1, in order. A recording then counts as one
        clip, and its answer is the `pool` ("mean" or "max") of its windows' probabilities.
    Raises `ValueError` where the tensors of a batch differ in their number of clips, or the recordings do not fit
    them, and `TypeError` where they are none.
    """

    def __init__(
        self, batches: Batches, name: str, recordings: Sequence[int] | None = None, pool: str = "mean"
    ) -> None:
        self._rows: list[Inputs] = []
        self.pool = pool
        for batch in [batches] if isinstance(batches, Tensor | Mapping) else batches:
            if not isinstance(batch, Tensor | Mapping):
                raise TypeError(
                    f"clips must be tensors as the model takes them, got {type(batch).__name__}; make spectrograms of "
                    "sounds first: audioprune.load_features(source, model)(clips)"
                )
            tensors = {name: batch} if isinstance(batch, Tensor) else {k: v for k, v in batch.items() if k != "labels"}
            if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
                raise TypeError('clips must be tensors; an extractor makes them with return_tensors="pt"')
            if len({len(tensor) for tensor in tensors.values()}) != 1:
                shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
                raise ValueError(f"a batch has tensors of {shapes}; each must have one row a clip")
            count = len(next(iter(tensors.values())))
            self._rows += [{key: tensor[i] for key, tensor in tensors.items()} for i in range(count)]
        self.recordings = list(range(len(self._rows)) if recordings is None else recordings)
        steps = [after - before for before, after in pairwise([0, *self.recordings])]
        if len(self.recordings) != len(self._rows) or steps[:1] not in ([], [0]) or not set(steps) <= {0, 1}:
            raise ValueError(
                f"recordings are {self.recordings[:5]} …, {len(self.recordings)} for {len(self._rows)} windows; give "
                "one a window, such as 0, 0, 0, 1, 1"
            )
        self._windows: list[list[int]] = [[] for _ in range(len(self))]
        for row, recording in enumerate(self.recordings):
            self._windows[recording].append(row)

    def __len__(self) -> int:
        return self.recordings[-1] + 1 if self.recordings else 0

    def batches(self, model: PreTrainedModel, indices: Sequence[int], size: int) -> Iterator[tuple[list[int], Inputs]]:
        """Clips of equal shape together, at most `size` at once, on the model's device and in its dtype: the number of
        each, and what the model takes. A recording comes once for each of its windows."""
        groups: dict[Any, list[int]] = {}
        for index in (row for recording in indices for row in self._windows[recording]):
            groups.setdefault(tuple((key, row.shape) for key, row in self._rows[index].items()), []).append(index)
        for group in groups.values():
            for first in range(0, len(group), size):
                chosen = group[first : first + size]
                stacked = {key: torch.stack([self._rows[i][key] for i in chosen]) for key in self._rows[chosen[0]]}
                yield (
                    [self.recordings[i] for i in chosen],
                    {key: _placed(tensor, model) for key, tensor in stacked.items()},
                )

    def tensors(self) -> Iterator[Tensor]:
        """What is told of each clip, clip by clip."""
        return (tensor for row in self._rows for tensor in row.values())

    @property
    def fingerprint(self) -> str:
        found = fingerprints.of_tensors((name, tensor) for row in self._rows for name, tensor in row.items())
        if len(self) == len(self._rows):
            return found
        return fingerprints.of_parts([found.encode(), repr((self.recordings, self.pool)).encode()])


def _placed(tensor: Tensor, model: PreTrainedModel) -> Tensor:
    return tensor.to(model.device, model.dtype) if tensor.is_floating_point() else tensor.to(model.device)


class Hearing:
    """One model on one set of clips, in a fixed order.

    order: the clips' numbers; what is asked for is a stretch of it. advance: called with the clips of each batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        clips: ClipSet,
        order: Sequence[int],
        batch_size: int,
        ledger: Ledger,
        advance: Callable[[int], Any] = lambda clips: None,
    ) -> None:
        self.model, self.clips, self.order, self.batch_size = model, clips, list(order), batch_size
        self._ledger, self.advance = ledger, advance
        self.multi_label = model.config.problem_type == "multi_label_classification"
        self.full = self._logits(range(len(order)))
        if self.full.shape[1] < 2:
            raise ValueError("the model has a single label, so that no setting could give another one")
        broken = int((~self.full.isfinite().all(1)).sum())
        if broken:
            raise ValueError(
                f"the unpruned model gives no finite answer on {broken} of {len(order)} clips; leave them out"
            )

    def hear(self, method: Method, first: int, last: int) -> Disagreement:
        """A setting on the clips from `first` to before `last`; only what was not heard yet is computed.

        What the method refuses (too few tokens left, as a rule) counts as apart on every clip.
        """
        known = self._ledger.outcomes(method)
        missing = [place for place in range(first, last) if place not in known]
        if missing:
            full = self.full[missing]
            try:
                with prune(self.model, method):
                    logits = self._logits(missing)
            except ValueError:
                logits = torch.full_like(full, math.nan)
            apart = ~same_top(logits, full) | ~logits.isfinite().all(1)
            kl = divergences(logits, full, self.multi_label).nan_to_num(nan=math.inf)
            self._ledger.note(method, missing, apart.tolist(), kl.tolist())
            known = self._ledger.outcomes(method)
        found = [known[place] for place in range(first, last)]
        kls = [kl for _, kl in found]
        return Disagreement(last - first, sum(apart for apart, _ in found), math.fsum(kls) / len(kls))

    @torch.inference_mode()
    def _logits(self, places: Sequence[int]) -> Tensor:
        """(places, classes) in float32 on the CPU."""
        call: Any = self.model
        where = {self.order[place]: row for row, place in enumerate(places)}
        owners, found, counted = list[int](), list[Tensor](), set[int]()
        for chosen, inputs in self.clips.batches(self.model, list(where), self.batch_size):
            found.append(self._logits_of(call(**inputs)).float().cpu())
            owners += [where[clip] for clip in chosen]
            self.advance(len(set(chosen) - counted))
            counted.update(chosen)
        return pooled(torch.cat(found), torch.tensor(owners), self.clips.pool, self.multi_label)

    def _logits_of(self, output: Any) -> Tensor:
        logits = getattr(output, "logits", None)
        if logits is None or logits.ndim != 2:
            raise ValueError(f"{type(self.model).__name__} gives a clip no labels; give the model with its head")
        return logits
