"""Time a ViT-Base's forward: pruned and unpruned, ours and others'."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import ASTConfig, ASTForAudioClassification

import audioprune as ap
from audioprune.attention.packing import available, pack
from audioprune.methods import Method
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

from . import limit
from .authors import AuthorsWay
from .turns import Contender, race, ratio

LABELS = 50
FRAMES = {64: 128, 256: 512, 512: 1024}
"""Patches of 16 × 16 → frames, at 128 mel channels."""
ROUNDS = {1: 9, 4: 7, 16: 5}
"""Batch size → counted rounds."""
LIMIT_ROWS = 2048


class Field:
    """The contenders at one number of tokens, batch size and dtype.

    rates: keep rates of TopK, after blocks 4, 7 and 10.
    """

    def __init__(self, tokens: int, batch: int, dtype: torch.dtype, rates: list[float], small: bool = False) -> None:
        torch.manual_seed(0)
        size = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 192} if small else {}
        frames = FRAMES[tokens]
        self.tokens, self.batch, self.dtype, self.rates = tokens, batch, dtype, rates
        self.model = AudioMAEForAudioClassification(AudioMAEConfig(max_length=frames, num_labels=LABELS, **size))
        self.model = self.model.to(dtype).eval()
        self.input = torch.randn(batch, frames, 128, dtype=dtype)
        self.contenders: dict[str, Contender] = {}
        self.macs: dict[str, int] = {}
        """Multiply-accumulates of one clip."""
        self._ours("ours", self.model)
        if available():
            packed = copy.deepcopy(self.model)
            pack(packed, frozen=True)
            self._ours("packed", packed, others=False)
        self._authors("authors")
        if dtype != torch.float32:
            self._authors("authors in float32", self.model.float())
            self.model.to(dtype)
        self._stock_ast(frames, size)
        self.products = limit.products(LIMIT_ROWS, dtype)

    def _ours(self, name: str, model: Any, others: bool = True) -> None:
        """Add our model: unpruned, at each rate, and with other methods at the cost of the lowest rate."""
        self._add(name, model, None)
        for rate in self.rates:
            self._add(f"{name} {rate}", model, ap.TopK(rate))
        if self.tokens > 64 and not others:
            self._add(f"{name} recommended quarter", model, ap.recommended(model, macs=0.25))
        if others:
            least = min(self.rates)
            self._add(f"random {least}", model, ap.TopK(least, score="random"))
            tome = as_costly(model, self.macs[f"ours {least}"])
            self._add(f"tome {least}", model, tome)
            self._add("recommended quarter", model, ap.recommended(model, macs=0.25))

    def _add(self, name: str, model: Any, method: Method | None) -> None:
        self.contenders[name] = Contender(lambda: model(self.input), pruning(model, method))
        with pruning(model, method)():
            self.macs[name] = ap.macs(model)

    def _authors(self, name: str, model: AudioMAEForAudioClassification | None = None) -> None:
        own = AuthorsWay(copy.deepcopy(model or self.model)).eval().to((model or self.model).dtype)
        inputs = self.input.to((model or self.model).dtype)
        for rate in (1.0, *self.rates):
            label = name if rate == 1 else f"{name} {rate}"
            self.contenders[label] = Contender(lambda: own(inputs), setting_rate(own, rate))

    def _stock_ast(self, frames: int, size: dict[str, Any]) -> None:
        config = ASTConfig(max_length=frames, time_stride=16, frequency_stride=16, num_labels=LABELS, **size)
        model = ASTForAudioClassification(config).to(self.dtype).eval()
        self.contenders["stock AST"] = Contender(lambda: model(self.input))
        self.macs["stock AST"] = ap.macs(model)

    def check(self) -> None:
        """Raise `AssertionError` if contenders that must agree do not agree."""
        with torch.inference_mode():
            for mine, theirs in (("ours", "authors"), (f"ours {self.rates[-1]}", f"authors {self.rates[-1]}")):
                answers = []
                for name in (mine, theirs):
                    with self.contenders[name].setting():
                        answers.append(self.contenders[name].run())
                exact = self.dtype == torch.float32
                torch.testing.assert_close(answers[0].logits, answers[1], atol=1e-4 if exact else 0.2, rtol=0)

    def measure(self, rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
        """Run the race and return its figures."""
        self.check()
        race({**self.contenders, **self.products, "copy": (copied := limit.copy())}, rounds, advance)
        best = limit.gmacs(self.products, LIMIT_ROWS)
        rows = [self._row(name, best) for name in self.contenders]
        setting = {"tokens": self.tokens, "batch_size": self.batch, "dtype": str(self.dtype).removeprefix("torch.")}
        return {
            **setting,
            "rounds": rounds,
            "limit_gmacs": best,
            "copy_gb_per_s": limit.copy_rate(copied),
            "rows": rows,
        }

    def _row(self, name: str, best: dict[str, float]) -> dict[str, Any]:
        one = self.contenders[name]
        row: dict[str, Any] = {"contender": name, "latency_ms": 1000 * one.median, "calls": one.calls * len(one.times)}
        row["clips_per_second"] = self.batch / one.median
        if name in self.macs:
            row["macs"] = self.macs[name]
            row["gmacs_per_second"] = self.batch * self.macs[name] / one.median / 1e9
            kind = "packed product" if name.startswith("packed") else "product"
            row["share_of_limit"] = row["gmacs_per_second"] / best[f"best {kind}"]
        base = "packed" if name.startswith("packed") else "authors" if name.startswith("authors") else "ours"
        row["speed_up"] = ratio(self.contenders[base], one)
        row["speed_up_over_ours_unpruned"] = ratio(self.contenders["ours"], one)
        if name in self.macs and base in self.macs:
            row["macs_ratio"] = self.macs[base] / self.macs[name]
            row["share_of_macs_ratio"] = row["speed_up"] / row["macs_ratio"]
        rate = name.rpartition(" ")[2]
        if (same := f"authors {rate}") in self.contenders and not name.startswith("authors"):
            row["speed_up_over_authors_at_this_rate"] = ratio(self.contenders[same], one)
            if (single := f"authors in float32 {rate}") in self.contenders:
                row["speed_up_over_authors_in_float32"] = ratio(self.contenders[single], one)
        elif name in ("ours", "packed"):
            row["speed_up_over_authors_at_this_rate"] = ratio(self.contenders["authors"], one)
        return row


def pruning(model: Any, method: Method | None) -> Callable[[], AbstractContextManager[Any]]:
    """Make a context in which the model is pruned with the method."""
    return nullcontext if method is None else lambda: ap.prune(model, method)


def setting_rate(model: AuthorsWay, rate: float) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def at_rate() -> Iterator[None]:
        model.keep_rate = rate
        yield

    return at_rate


def as_costly(model: Any, macs: int) -> ap.ToMe:
    """Return ToMe in every block, at the largest keep rate whose MACs are at most these."""
    low, high = 500, 1000
    while high - low > 1:
        middle = (low + high) // 2
        with ap.prune(model, ap.ToMe(middle / 1000, layers="all")):
            low, high = (middle, high) if ap.macs(model) <= macs else (low, middle)
    return ap.ToMe(low / 1000, layers="all")
