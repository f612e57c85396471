"""Time Whisper in several engines on the same clips: transformers plain, compiled, pruned, packed and in
bfloat16, and faster-whisper.

    python -m benchmarks.whisper_peers --whisper WEIGHTS --manifest speech/manifest.csv --model tiny.en

WEIGHTS holds transformers folders (whisper-tiny.en) and CTranslate2 folders (ct2-whisper-tiny.en). Each engine runs in
a process of its own, with the same number of threads, greedily, without timestamps, without a voice detector and
without fallbacks. Each round runs all engines, in an order of its own. Seconds of a clip are the median of the rounds:
of the encoder alone, and from the waveform to the text. Ratios are to plain transformers on the same clip. What is
finished is in the file: the same command continues there. faster-whisper is left out if it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers.generation.configuration_utils import CompileConfig

import audioprune as ap
from audioprune.attention.packing import pack, packs
from audioprune.audio.files import load_audio
from audioprune.cli.console import err, progress
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from audioprune.transcribing.contenders import contenders, parse_contender
from audioprune.transcribing.manifest import Utterance, read_manifest
from audioprune.transcribing.speech_model import open_speech_model
from audioprune.transcribing.timing import EncoderClock
from audioprune.transcribing.word_errors import is_runaway, normalizer, total, word_errors

PLAIN = "transformers"
PRODUCT = "audioprune transcribe"
TORCH: dict[str, tuple[bool, bool, torch.dtype]] = {
    PLAIN: (False, False, torch.float32),
    "transformers compiled": (False, False, torch.float32),
    "transformers packed": (False, True, torch.float32),
    "transformers bfloat16": (False, False, torch.bfloat16),
    "pruned": (True, False, torch.float32),
    "pruned packed": (True, True, torch.float32),
    PRODUCT: (True, True, torch.float32),
    "pruned bfloat16": (True, False, torch.bfloat16),
    "pruned packed bfloat16": (True, True, torch.bfloat16),
}
"""Engine → whether it is pruned, whether it is packed, its dtype. The product is what the command does: pruned, packed,
and with masks of suppressed words that are made once."""
FASTER = {"faster-whisper float32": "float32", "faster-whisper int8": "int8"}
"""Engine → compute type of CTranslate2."""
WARM_UPS = 2

Row = dict[str, Any]
Engine = Callable[[np.ndarray], tuple[str, float]]
"""Waveform → text, and seconds of the encoder."""


def torch_engine(name: str, options: argparse.Namespace) -> Engine:
    is_pruned, is_packed, dtype = TORCH[name]
    torch.set_num_threads(options.threads)
    source = str(options.whisper / f"whisper-{options.model}")
    loaded = open_speech_model(source, dtype=dtype, language="en", quick=name == PRODUCT)
    if is_pruned:
        method = contenders([parse_contender(options.method)], (), loaded.model)[1].method
        assert isinstance(method, ap.Method), options.method
        ap.prune(loaded.model, method)
    if is_packed:
        pack(loaded.model, frozen=True)
    if name.endswith("compiled"):
        compile_decoder(loaded.model)

    def run(waveform: np.ndarray) -> tuple[str, float]:
        with EncoderClock(loaded.model) as clock:
            (text,) = loaded([waveform])
        return text, clock.seconds

    return run


def compile_decoder(model: Any) -> None:
    """Let `generate` use a static cache and compile each step; transformers does so by itself on a GPU only."""
    model.generation_config.cache_implementation = "static"
    model.generation_config.compile_config = CompileConfig(mode="default")
    model.generation_config.compile_config._compile_all_devices = True


def faster_engine(name: str, options: argparse.Namespace) -> Engine:
    from faster_whisper import WhisperModel

    folder = str(options.whisper / f"ct2-whisper-{options.model}")
    model: Any = WhisperModel(folder, device="cpu", compute_type=FASTER[name], cpu_threads=options.threads)
    encode, took = model.encode, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        result = encode(*args, **kwargs)
        took[0] += time.perf_counter() - begun
        return result

    model.encode = timed

    def run(waveform: np.ndarray) -> tuple[str, float]:
        took[0] = 0.0
        segments, _ = model.transcribe(
            waveform,
            language="en",
            beam_size=1,
            temperature=0,
            without_timestamps=True,
            condition_on_previous_text=False,
            vad_filter=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        return " ".join(segment.text.strip() for segment in segments), took[0]

    return run


def work(name: str, options: argparse.Namespace) -> None:
    """Transcribe all clips with one engine, in this process, and write its rows."""
    engine = (faster_engine if name in FASTER else torch_engine)(name, options)
    clips = read_manifest(options.manifest, options.limit)
    sounds = [load_audio(clip.path).waveform for clip in clips]
    for _ in range(WARM_UPS):
        engine(sounds[0])
    rows = []
    for clip, sound in zip(clips, sounds, strict=True):
        begun = time.perf_counter()
        text, encoder = engine(sound)
        whole = time.perf_counter() - begun
        rows.append({"clip": clip.name, "text": text, "encoder": encoder, "whole": whole})
    write_json(options.rows, rows)


def engines(options: argparse.Namespace) -> list[str]:
    """List the engines that can run here."""
    found = [name for name, (_, packed, dtype) in TORCH.items() if not packed or packs(dtype)]
    if importlib.util.find_spec("faster_whisper") is None:
        err.print("faster-whisper is left out: it is not installed")
    else:
        found += FASTER
    return [name for name in found if options.engines is None or name in (*options.engines, PLAIN)]


def spawn(name: str, options: argparse.Namespace) -> list[Row]:
    """Run one engine in a process of its own; return its rows."""
    with TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        words = [sys.executable, "-m", "benchmarks.whisper_peers", *sys.argv[1:], "--work", name, "--rows", str(rows)]
        env = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        return json.loads(rows.read_text())


def summary(clips: Sequence[Utterance], rounds: dict[str, list[list[Row]]]) -> dict[str, Row]:
    """Make the figures of each engine. rounds: engine → the rows of each round."""
    normalize, figures = normalizer("en"), dict[str, Row]()
    own = [normalize(row["text"]) for row in rounds[PLAIN][0]]
    seconds = {
        name: {part: [median(row[part] for row in rows) for rows in zip(*found, strict=True)] for part in PARTS}
        for name, found in rounds.items()
    }
    for name, found in rounds.items():
        texts = [normalize(row["text"]) for row in found[0]]
        wrong = total([word_errors(normalize(clip.text), text) for clip, text in zip(clips, texts, strict=True)])
        figures[name] = {
            "rounds": len(found),
            "word_error_rate": wrong.rate,
            "same": sum(a == b for a, b in zip(texts, own, strict=True)),
            "runaways": sum(is_runaway(a, b) for a, b in zip(texts, own, strict=True)),
            **{part: _times(seconds[name][part], seconds[PLAIN][part]) for part in PARTS},
        }
    return figures


PARTS = ("encoder", "whole")


def _times(seconds: Sequence[float], plain: Sequence[float]) -> Row:
    faster = [one / other for one, other in zip(plain, seconds, strict=True)]
    spread = stdev(faster) if len(faster) > 1 else 0.0
    return {"seconds": median(seconds), "total_seconds": sum(seconds), "faster": {"mean": fmean(faster), "std": spread}}


def shown(name: str, row: Row) -> str:
    """Format a line of the table."""
    cells = [f"{1000 * row[part]['seconds']:>8.0f} {row[part]['faster']['mean']:>6.2f}×" for part in PARTS]
    return f"{name:<24} {100 * row['word_error_rate']:>6.1f} {row['same']:>5} {row['runaways']:>4} {' '.join(cells)}"


def run(options: argparse.Namespace) -> None:
    """Run all engines in rounds, and print and write the figures after each."""
    clips, chosen = read_manifest(options.manifest, options.limit), engines(options)
    setting = {
        "model": options.model,
        "clips": [clip.name for clip in clips],
        "threads": options.threads,
        "method": options.method if Path(options.method).suffix != ".json" else Path(options.method).name,
    }
    result = _read(options.out, setting)
    rounds: dict[str, list[list[Row]]] = result["rounds"]
    with progress("engines") as bar:
        task = bar.add_task("Measuring", total=len(chosen) * options.rounds)
        for lap in range(options.rounds):
            order = random.Random(lap).sample(chosen, len(chosen))
            for name in order:
                bar.update(task, description=name)
                if len(rounds.setdefault(name, [])) <= lap:
                    rounds[name].append(spawn(name, options))
                    write_json(options.out, result)
                bar.advance(task)
    ordered = {name: rounds[name] for name in (*TORCH, *FASTER) if name in rounds}
    result["engines"] = summary(clips, ordered)
    write_json(options.out, result)
    print(
        f"{'engine':<24} {'error':>6} {'same':>5} {'away':>4} {'encoder':>8} {'faster':>7} {'whole':>8} {'faster':>7}"
    )
    print("\n".join(shown(name, row) for name, row in result["engines"].items()))


def _read(path: Path, setting: Row) -> Row:
    """Read the file of figures, or begin it."""
    installed = ["torch", "transformers", "jiwer"]
    installed += ["faster-whisper", "ctranslate2"] if importlib.util.find_spec("faster_whisper") else []
    begun: Row = {
        "command": f"python -m benchmarks.whisper_peers --whisper WEIGHTS --manifest CSV --model {setting['model']}",
        "machine": machine() | {"threads": setting["threads"]},
        "versions": {name: version(name) for name in installed},
        "setting": setting,
        "rounds": {},
    }
    if not path.exists():
        return begun
    result: Row = json.loads(path.read_text())
    if result["setting"] != setting:
        raise SystemExit(f"{path}: begun with other settings; choose another --out")
    return result


def main() -> None:
    """Parse the options; measure, or be one of the processes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whisper_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--whisper", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV file of clips and transcripts")
    parser.add_argument("--model", default="tiny.en", help="size (default: tiny.en)")
    parser.add_argument("--method", default="padding", help="a word, a JSON file or JSON (default: padding)")
    parser.add_argument("--engines", nargs="+", help="engines to run besides plain transformers (default: all)")
    parser.add_argument("--limit", type=int, help="number of clips, at even distances (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/whisper-peers-MODEL.json)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out or Path("results") / f"whisper-peers-{options.model}.json"
    if options.work:
        work(options.work, options)
    else:
        run(options)


if __name__ == "__main__":
    main()
