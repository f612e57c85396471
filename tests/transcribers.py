"""A tiny Whisper with its decoder, and its tokenizer of letters: it hears one second at a time and talks nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .families import whisper

SECONDS = 1
LANGUAGES = ("en", "de", "fr")
END, START = 256, 257
TRANSLATE = START + 1 + len(LANGUAGES)
NO_TIMES = TRANSLATE + 5
TIMES = 50 * SECONDS + 1
WORDS = NO_TIMES + 1 + TIMES


def tokenizer() -> WhisperTokenizer:
    """One token a byte, then Whisper's special tokens, then its times."""
    vocab = {letter: i for i, letter in enumerate(bytes_to_unicode().values())}
    made: Any = WhisperTokenizer(vocab | {"<|endoftext|>": END}, [])
    special = ["startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev", "nospeech"]
    made.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in [*special, "notimestamps"]]})
    made.add_tokens([f"<|{0.02 * i:.2f}|>" for i in range(TIMES)])
    assert len(made) == WORDS
    return made


def transcriber(multilingual: bool = True, **changes: Any) -> WhisperForConditionalGeneration:
    shape = {
        "vocab_size": WORDS,
        "max_source_positions": 50 * SECONDS,
        "max_target_positions": 40,
        "decoder_layers": 2,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        "bos_token_id": END,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    model: Any = whisper(WhisperForConditionalGeneration, **(shape | changes))
    letters = list(bytes_to_unicode())
    readable = {letters.index(ord(letter)) for letter in " abcdefghijklmnopqrstuvwxyz"}
    of_languages = {
        "lang_to_id": {f"<|{name}|>": START + 1 + i for i, name in enumerate(LANGUAGES)},
        "task_to_id": {"translate": TRANSLATE, "transcribe": TRANSLATE + 1},
    }
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        bos_token_id=END,
        max_length=24,
        no_timestamps_token_id=NO_TIMES,
        max_initial_timestamp_index=5,
        alignment_heads=[[0, 0], [1, 1]],
        is_multilingual=multilingual,
        suppress_tokens=[i for i in range(NO_TIMES + 1) if i not in {*readable, END}],
        min_new_tokens=8,
        begin_suppress_tokens=[END],
        **(of_languages if multilingual else {}),
    )
    return model.eval()


def save(folder: Path, multilingual: bool = True, **changes: Any) -> str:
    """A folder in transformers' format."""
    model = transcriber(multilingual, **changes)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    WhisperFeatureExtractor(model.config.num_mel_bins, chunk_length=SECONDS).save_pretrained(folder)
    return str(folder)
