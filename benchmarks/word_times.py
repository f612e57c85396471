"""How far the times of words move when a Whisper is pruned.

    python -m benchmarks.word_times --whisper WEIGHTS/whisper-base --manifest speech/manifest.csv --out results/x.json

Each clip is transcribed with and without pruning. Of words that are the same in both, the times are compared.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from tqdm import tqdm

import audioprune as ap
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from audioprune.transcribing.manifest import read_manifest
from audioprune.transcribing.options import Options
from audioprune.transcribing.parts import WhisperParts
from audioprune.transcribing.recognizer import Recognizer, Transcript, Word

CLOSE = 0.04 + 1e-6
"""Seconds: two positions of the encoder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", required=True, help="folder of a Whisper in transformers' format")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV with a column for the sound and the text")
    parser.add_argument("--limit", type=int, help="clips, at even distances (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    asked = parser.parse_args()
    parts = WhisperParts.read(asked.whisper)
    language = "en" if parts.is_multilingual else None
    recognizer = Recognizer(parts.load(), parts, Options(language, timestamps="word"))
    method = ap.recommended(recognizer.model)
    moved: list[float] = []
    words = 0
    for clip in tqdm(read_manifest(asked.manifest, asked.limit), unit="clip"):
        waveform = ap.load_audio(clip.path).waveform
        (before,) = recognizer.short([waveform])
        with ap.prune(recognizer.model, method):
            (after,) = recognizer.short([waveform])
        words += len(_words(before))
        moved += _moved(_words(before), _words(after))
    ends = np.array(moved)
    figures = {
        "words": words,
        "same_words": len(ends),
        "within_40_ms": round(100 * float((ends <= CLOSE).mean()), 2),
        "unmoved": round(100 * float((ends == 0).mean()), 2),
        "mean_ms": round(1000 * float(ends.mean()), 2),
        "most_ms": round(1000 * float(ends.max()), 1),
    }
    about = {
        "command": shlex.join(["python", "-m", "benchmarks.word_times", *sys.argv[1:]]),
        "model": Path(asked.whisper).name,
        "method": str(method),
        "machine": machine(),
    }
    write_json(asked.out, about | figures)
    print(figures)


def _words(transcript: Transcript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words]


def _moved(before: list[Word], after: list[Word]) -> list[float]:
    """Seconds by which the beginning or the end of each word that both have moved, the greater of the two."""
    matcher = SequenceMatcher(None, [one.word for one in before], [one.word for one in after], autojunk=False)
    return [
        round(max(abs(a.start - b.start), abs(a.end - b.end)), 3)
        for i, j, count in matcher.get_matching_blocks()
        for a, b in zip(before[i : i + count], after[j : j + count], strict=True)
    ]


if __name__ == "__main__":
    main()
