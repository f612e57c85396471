"""Pruning methods on speech with transcripts: word errors, tokens and seconds, side by side on each clip."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from .. import fingerprints
from ..adapters import UnsupportedModelError
from ..audio.files import SAMPLE_RATE, AudioError, load_audio
from ..compare.benchmark import machine
from ..files import Row
from ..methods import UntrainedError
from ..timing import in_turns
from .contenders import Contender
from .evaluation_log import EvaluationLog
from .evaluation_report import write
from .evaluation_table import clip_rows, method_row
from .manifest import Utterance
from .speech_model import SpeechModel
from .timing import EncoderClock, threads
from .word_errors import normalizer, require

ROWS = "eval-asr.jsonl"
"""Name of the journal in the folder of an evaluation."""
REPEATS = 3
"""Timed transcriptions of each clip."""
PATIENCE = 10.0
"""Seconds of timed repeats after which a transcription is not repeated again: runaways take long."""

Sound = tuple[Utterance, np.ndarray]


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Evaluation:
    """A Whisper and its contenders on some clips.

    Args:
        speech_model: the model with its search.
        utterances: clips and transcripts.
        contenders: as of `contenders`; the first is the unpruned model.
        name: name of the model, a hub id or a folder.
        out: folder of the rows, the table and the picture.
        threads: threads of PyTorch.
        batch_size: clips of a transcription; their seconds are shared equally.
        repeats: timed transcriptions of each clip; fewer if they take more than 10 s. Where they are several, another
            one goes before them, which is not timed.
        command: command line of the run, for the result.
    """

    speech_model: SpeechModel
    utterances: Sequence[Utterance]
    contenders: Sequence[Contender]
    name: str
    out: Path
    threads: int = 2
    batch_size: int = 1
    repeats: int = REPEATS
    command: str | None = None

    def run(self, advance: Callable[[int], Any] = _nothing, report: Callable[[str], Any] = _nothing) -> Row:
        """Transcribe all open clips; write and return the result.

        On each clip, the contenders take turns. A clip's row is in `eval-asr.jsonl` as soon as all have finished it; a
        run that was killed continues there. A clip that cannot be decoded is left out, and listed as "failed". A
        contender that the model refuses has the reason as "refused".

        advance: called with the number of finished clips, including those of earlier runs. report: called with a line
        about each clip that is left out.

        Raises `EvaluationError` if the rows are of other settings or transcripts, and `ModuleNotFoundError` without
        jiwer.
        """
        require()
        with threads(self.threads):
            settings = self._settings()
            with EvaluationLog(self.out / ROWS, settings) as log:
                result = self._finish(log, settings, advance, report)
        write(self.out, result)
        return result

    def _finish(
        self, log: EvaluationLog, settings: Row, advance: Callable[[int], Any], report: Callable[[str], Any]
    ) -> Row:
        failed: list[Row] = []
        log.check_asked({one.name: one.text for one in self.utterances})
        todo = [one for one in self.utterances if one.name not in log.rows]
        advance(len(self.utterances) - len(todo))
        tried = self._tried()
        able = [one for one in tried if one.refused is None]
        for batch in self._batches(self._sounds(todo, failed, report, advance)):
            log.write(self._transcribe(batch, able))
            advance(len(batch))
        rows = [log.rows[one.name] for one in self.utterances if one.name in log.rows]
        return self._result(settings, tried, rows, failed)

    def _settings(self) -> Row:
        """All that the rows depend on except the clips."""
        model = self.speech_model.model
        return {
            "model": self.name,
            "weights": fingerprints.of_weights(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "language": self.speech_model.language,
            "beams": self.speech_model.beams,
            "batch_size": self.batch_size,
            "repeats": self.repeats,
            "machine": machine(),
            "transformers": transformers.__version__,
            "methods": {one.name: one.settings for one in self.contenders},
        }

    def _tried(self) -> list[Contender]:
        """The contenders; those that the model refuses, with the reason. A second of noise also warms the model up."""
        noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) / 100
        return [self._try(one, noise) for one in self.contenders]

    def _try(self, contender: Contender, noise: np.ndarray) -> Contender:
        if contender.refused is not None:
            return contender
        try:
            with contender.attached(self.speech_model.model):
                self.speech_model([noise], max_new_tokens=2)
        except (ValueError, UnsupportedModelError, UntrainedError) as error:
            if contender.method is None:  # pruning is not the reason
                raise
            return Contender(contender.name, contender.method, str(error))
        return contender

    def _sounds(
        self,
        todo: Sequence[Utterance],
        failed: list[Row],
        report: Callable[[str], Any],
        advance: Callable[[int], Any],
    ) -> Iterator[Sound]:
        for one in todo:
            try:
                yield one, load_audio(one.path).waveform
            except AudioError as error:
                failed.append({"clip": one.name, "error": str(error)})
                report(str(error))
                advance(1)

    def _batches(self, sounds: Iterator[Sound]) -> Iterator[list[Sound]]:
        """Batches in order; a clip that is longer than the window is alone."""
        batch: list[Sound] = []
        for sound in sounds:
            if len(sound[1]) > self.speech_model.window:
                yield [sound]
                continue
            batch.append(sound)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _transcribe(self, batch: Sequence[Sound], able: Sequence[Contender]) -> list[Row]:
        waveforms = [waveform for _, waveform in batch]
        found: dict[str, list[Row]] = {one.name: [] for one in able}
        runs = [partial(self._run, one, waveforms, found[one.name]) for one in able]
        in_turns(runs, self.repeats + (self.repeats > 1), seed=batch[0][0].name)
        return [
            {
                "clip": utterance.name,
                "reference": utterance.text,
                "seconds": len(waveform) / SAMPLE_RATE,
                "results": {one.name: found[one.name][i] for one in able},
            }
            for i, (utterance, waveform) in enumerate(batch)
        ]

    def _run(self, contender: Contender, waveforms: Sequence[np.ndarray], results: list[Row]) -> None:
        """Transcribe; the first time note the words and the tokens, and the seconds where they count. Do nothing if
        that took long enough already."""
        is_first, clips = not results, len(waveforms)
        if not is_first and clips * sum(results[0]["whole_seconds"]) > PATIENCE:
            return
        model = self.speech_model.model
        with contender.attached(model), EncoderClock(model) as clock:
            begun = time.perf_counter()
            texts = self.speech_model(waveforms)
            whole = time.perf_counter() - begun
        if is_first:
            results += [
                {"text": text, "tokens": tokens, "encoder_seconds": [], "whole_seconds": []}
                for text, tokens in zip(texts, clock.tokens, strict=True)
            ]
        # The first of several warms up; one that took long needs no other.
        if not is_first or self.repeats == 1 or whole > PATIENCE:
            for result in results:
                result["encoder_seconds"].append(clock.seconds / clips)
                result["whole_seconds"].append(whole / clips)

    def _result(self, settings: Row, tried: Sequence[Contender], rows: Sequence[Row], failed: Sequence[Row]) -> Row:
        normalize = normalizer(self.speech_model.language, self.speech_model.tokenizer)
        clips = clip_rows(rows, normalize)
        return {
            "command": self.command,
            **{name: value for name, value in settings.items() if name not in ("weights", "methods", "transformers")},
            "versions": _versions(),
            "threads": self.threads,
            "clips": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "failed": list(failed),
            "rows": [method_row(one, clips) for one in tried],
            "by_clip": clips,
        }


def _versions() -> Row:
    found = {name: version(name) for name in ("audioprune", "torch", "transformers", "jiwer")}
    return found | {"python": platform.python_version()}
