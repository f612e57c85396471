"""Measure what a Whisper's decoder loses if tokens are chosen or merged at the encoder's output.

    python scripts/decoder_selection.py --model openai/whisper-tiny.en --manifest speech/manifest.csv --out runs/decoder

To the decoder, the encoder's output is what a sound is to an audio-language model. First, the padding is merged, so
that a rate is a share of the clip's tokens and of the few that stand for the padding. Then one method acts after the
attention of the last block, at each rate. The decoder counts a token as often as it stands for positions; with
--unsized it counts each once. The rows go on where they ended. The result is that of `audioprune eval-asr`.

A transcript ends at 128 tokens: no clip has as many, and runaways take long.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

import audioprune as ap
from audioprune.methods import Method
from audioprune.methods.chain import Chain
from audioprune.methods.names import named
from audioprune.transcribing.contenders import Contender
from audioprune.transcribing.evaluation import Evaluation
from audioprune.transcribing.manifest import read_manifest
from audioprune.transcribing.speech_model import open_speech_model

RATES = (0.5, 0.25, 0.1)
LONGEST = 128
"""Tokens of a transcript, at most."""
WORDS = (
    "topk", "bottomk", "random", "uniform", "intensity", "segmentwise+segments=10", "segmentwise+segments=1000", "evs",
    "divprune", "dpp", "visionzip+contextual=0.18", "samap",
    "pooling", "peaks", "topk+merge", "segmentwise+segments=10+merge", "random+merge", "tome+passes=4", "tofu+passes=4",
    "atome", "fastadasp", "ltbm",
)  # fmt: skip
"""Methods that choose, and methods that merge."""


@dataclasses.dataclass(frozen=True)
class AtOutput(Contender):
    """A method at the encoder's output. sized: whether the decoder counts a token by the positions it stands for."""

    sized: bool = True

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        with super().attached(model):
            hook = model.model.encoder.register_forward_hook(self._without_sizes)
            try:
                yield
            finally:
                hook.remove()

    def _without_sizes(self, _encoder: Any, _inputs: Any, output: Any) -> Any:
        return output if self.sized else dataclasses.replace(output, size=torch.ones_like(output.size))

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"sized": self.sized}


def contenders(words: list[str], depth: int, sized: bool) -> Iterator[Contender]:
    yield Contender("unpruned")
    yield AtOutput("padding", ap.PaddingMerge(), sized=sized)
    for word in words:
        for rate in RATES:
            last: Method = named(word).at(rate, layers=(depth - 1,))
            yield AtOutput(f"{word} {rate:g}", Chain.of([ap.PaddingMerge(), last]), sized=sized)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="openai/whisper-tiny.en", help="a folder or a hub id")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV with a column path and a column text")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the result")
    parser.add_argument("--method", action="append", help="a word; repeatable; default: all that apply")
    parser.add_argument("--unsized", action="store_true", help="let the decoder count each token once")
    parser.add_argument("--limit", type=int, help="so many clips, at even distances")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    speech_model = open_speech_model(args.model)
    speech_model.model.generation_config.max_length = LONGEST
    depth = speech_model.model.config.encoder_layers
    utterances = read_manifest(args.manifest, args.limit)
    compared = list(contenders(args.method or list(WORDS), depth, not args.unsized))
    command = shlex.join(["python", *sys.argv])
    evaluation = Evaluation(
        speech_model, utterances, compared, Path(args.model).name, args.out, args.threads, repeats=1, command=command
    )
    with Progress() as bar:
        task = bar.add_task("Transcribing", total=len(utterances))
        result = evaluation.run(lambda count: bar.advance(task, count), print)
    for row in result["rows"]:
        print(
            row.get("refused")
            or {name: row.get(name) for name in ("method", "word_error_rate", "same", "runaways", "tokens")}
        )


if __name__ == "__main__":
    main()
