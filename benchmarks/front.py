"""The front end: features beside transformers' extractor, and tagging beside the model alone."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import ASTFeatureExtractor

import audioprune as ap
from audioprune.features import LogMel

from .turns import Contender, race, ratio

CLIPS, SECONDS, RATE = 16, 10, 16_000


def features(rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Log-mel of ten-second clips by ours and by transformers' AST extractor, at every number of threads."""
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(SECONDS * RATE).astype(np.float32) * 0.1 for _ in range(CLIPS)]
    ours, theirs = LogMel(1024), ASTFeatureExtractor()
    most, contenders = torch.get_num_threads(), {}
    for threads in range(1, most + 1):
        with_threads = setting_threads(threads)
        contenders[f"ours, {threads}"] = Contender(lambda: ours(waves), with_threads)
        contenders[f"transformers, {threads}"] = Contender(
            lambda: theirs(waves, sampling_rate=RATE, return_tensors="pt"), with_threads
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        race(contenders, rounds, advance)
    best = {who: min((n for n in contenders if n.startswith(who)), key=lambda n: contenders[n].median) for who in WHO}
    return {
        "clips": CLIPS,
        "seconds": SECONDS,
        "ms_per_clip": {name: 1000 * one.median / CLIPS for name, one in contenders.items()},
        "best": best,
        "speed_up": ratio(contenders[best["transformers"]], contenders[best["ours"]]),
    }


WHO = ("ours", "transformers")


def setting_threads(threads: int) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def with_threads() -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return with_threads
