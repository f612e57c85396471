"""Time the front end: features beside transformers' extractor, and tagging beside the model alone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ASTFeatureExtractor

import audioprune as ap
from audioprune.attention.packing import available, pack
from audioprune.audio.features import LogMel
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification
from audioprune.models.loading import load
from audioprune.tagging.sounds import find_clips
from audioprune.tagging.tagger import Tagger

from .turns import Contender, race, ratio

CLIPS, SECONDS, RATE = 16, 10, 16_000
FRAMES = 512
"""Frames of a ViT-Base that hears five seconds."""
BATCH, TURN = 8, 80
"""Clips per forward, and clips until the model alone has its turn."""


def features(rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Time the log-mel of ten-second clips, ours and by transformers' AST extractor, at every number of threads."""
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


def tagging(folder: Path, rate: float, clips: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Time `tag` on real sounds with a pruned ViT-Base and with the shipped model, beside these models alone.

    folder: sounds, of which `clips` are tagged. rate: keep rate of TopK.
    """
    paths = find_clips([folder])[0][:clips]
    shipped = load("esc10")
    large = AudioMAEForAudioClassification(AudioMAEConfig(max_length=FRAMES, num_labels=50)).eval()
    return {
        "clips": len(paths),
        "keep_rate": rate,
        "batch_size": BATCH,
        **{
            f"{name}{', packed' if packed else ''}": _tag(model, rate, packed, paths, advance)
            for name, model in (("ViT-Base", large), ("esc10", shipped))
            for packed in (False, True)[: 1 + available()]
        },
    }


def _tag(model: Any, rate: float, packed: bool, paths: list[Path], advance: Callable[[], None]) -> dict[str, float]:
    """Time both in turns of `TURN` clips, so that drift affects both in the same way."""
    front = LogMel.preset("esc50", max_length=model.config.max_length, num_mel_bins=model.config.num_mel_bins)
    tagger = Tagger(model, front, batch_size=BATCH)
    tagged = alone = 0.0
    with ap.prune(model, ap.TopK(rate)), pack(model, frozen=True) if packed else nullcontext(), torch.inference_mode():
        spectrograms = tagger.features([ap.load_audio(path).waveform for path in paths[:BATCH]])
        model(spectrograms)
        for start in range(0, len(paths), TURN):
            some = paths[start : start + TURN]
            begun = time.perf_counter()
            rows = list(tagger(some))
            tagged += time.perf_counter() - begun
            assert not any("error" in row for row in rows)
            begun = time.perf_counter()
            for first in range(0, len(some), BATCH):
                model(spectrograms[: len(some) - first])
            alone += time.perf_counter() - begun
        advance()
    return {"clips_per_second": len(paths) / tagged, "model_alone": len(paths) / alone, "share": alone / tagged}
