"""What a stand-in for padding should be: the middle token of its run, the run's mean, or half way between them; and
whether attention sinks must stay apart.

Each clip's unpruned transcript is read by the unpruned and by the pruned model, word by word. Their
answers are compared, which says more with few clips than words that flip or do not.

    python -m benchmarks.stand_ins --whisper WEIGHTS/whisper-base --manifest speech/manifest.csv --out results/x.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import audioprune as ap
from audioprune.adapters.blocks.adapter import BlockAdapter
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from audioprune.methods import padding
from audioprune.transcribing.manifest import read_manifest
from audioprune.transcribing.parts import WhisperParts

SHARES = {"middle": 0.0, "half way": 0.5, "mean": 1.0}
RATES = (0.1, 0.05, 0.04, 0.02)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", required=True, help="folder of a Whisper in transformers' format")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV with a column for the sound and the text")
    parser.add_argument("--limit", type=int, default=40, help="clips, at even distances")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    asked = parser.parse_args()
    parts = WhisperParts.read(asked.whisper)
    model = parts.load()
    clips = [_unpruned(model, parts, clip) for clip in tqdm(read_manifest(asked.manifest, asked.limit), unit="clip")]
    rows = []
    settings = [(rate, name, apart) for rate in RATES for name in SHARES for apart in (True, False)]
    for rate, name, apart in tqdm(settings, unit="setting"):
        padding.TOWARDS_MEAN = SHARES[name]
        with ap.prune(model, ap.PaddingMerge(rate)) as handle:
            if not apart:
                assert isinstance(handle.adapter, BlockAdapter)
                handle.adapter.sinks = None
            rows.append({"keep_rate": rate, "stand_in": name, "sinks_apart": apart, **_compared(model, clips)})
        tqdm.write(str(rows[-1]))
    about = {
        "command": shlex.join(["python", "-m", "benchmarks.stand_ins", *sys.argv[1:]]),
        "model": Path(asked.whisper).name,
        "clips": len(clips),
        "machine": machine(),
    }
    write_json(asked.out, about | {"rows": rows})


def _unpruned(model: Any, parts: WhisperParts, clip: Any) -> tuple[Tensor, Tensor, Tensor, int]:
    """Features, (1, words) of the transcript, log-probabilities of each next word, and the length of the prompt."""
    sound = ap.load_audio(clip.path).waveform
    features = parts.extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features
    task = {"language": "en", "task": "transcribe"} if parts.is_multilingual else {}
    words = model.generate(features, max_new_tokens=120, **task)
    prompt = [token for _, token in parts.tokenizer.get_decoder_prompt_ids(no_timestamps=True, **task)]
    start = torch.tensor([[model.config.decoder_start_token_id, *prompt]])
    said = torch.tensor([[token for token in words[0].tolist() if token < start.min()]])
    whole = torch.cat((start, said), dim=1).long()
    logits = model(features, decoder_input_ids=whole).logits
    return features, whole, logits.log_softmax(dim=-1), start.shape[1]


def _compared(model: Any, clips: list[tuple[Tensor, Tensor, Tensor, int]]) -> dict[str, float]:
    """Mean Kullback-Leibler divergence a word, its spread over clips, share of the same best words in %, tokens."""
    divergences, same, words, tokens = [], 0, 0, 0
    for features, whole, before, prompt in clips:
        read = model.get_encoder()(features)
        after = model(encoder_outputs=read, decoder_input_ids=whole).logits.log_softmax(dim=-1)
        one, other = before[0, prompt - 1 :], after[0, prompt - 1 :]
        divergences.append(float((one.exp() * (one - other)).sum(dim=-1).mean()))
        same, words = same + int((one.argmax(-1) == other.argmax(-1)).sum()), words + len(one)
        tokens += 1500 if getattr(read, "tokens", None) is None else read.tokens.shape[1]
    found = torch.tensor(divergences)
    return {
        "divergence": round(float(found.mean()), 5),
        "spread": round(float(found.std()), 5),
        "same_words": round(100 * same / words, 2),
        "tokens": round(tokens / len(clips)),
    }


if __name__ == "__main__":
    main()
