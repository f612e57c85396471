"""What is asked of a Whisper: language, task, times, beams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from .parts import WhisperParts

TASKS = ("transcribe", "translate")
TIMESTAMPS = ("none", "segment", "word")


@dataclass(frozen=True)
class Options:
    """How to transcribe.

    Args:
        language: of the speech: a code ("de") or a name ("german"); None lets a multilingual model find out.
        task: "transcribe", or "translate" into English.
        timestamps: "none", "segment", or "word" (of segments and of words).
        beams: number of beams of the search; 1 is greedy.
    """

    language: str | None = None
    task: str = "transcribe"
    timestamps: str = "none"
    beams: int = 1

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; it is {' or '.join(TASKS)}")
        if self.timestamps not in TIMESTAMPS:
            raise ValueError(f"timestamps is {self.timestamps!r}; it is {', '.join(TIMESTAMPS[:-1])} or word")
        if self.beams < 1:
            raise ValueError(f"beams is {self.beams}; it is at least 1")

    def for_model(self, parts: WhisperParts) -> Self:
        """The same with the language as a code. Raises `ValueError` for what the model cannot do."""
        self._check_times(parts)
        code = None if self.language is None else TO_LANGUAGE_CODE.get(self.language.lower(), self.language.lower())
        if not parts.is_multilingual:
            if self.task != "transcribe" or code not in (None, "en"):
                asked = f"language {self.language}" if self.task == "transcribe" else f"task {self.task}"
                raise ValueError(
                    f"{asked}: {parts.source} knows English only; leave it out, or take a multilingual model such as "
                    "openai/whisper-base"
                )
            return replace(self, language=None)
        if code is not None and code not in parts.languages:
            raise ValueError(
                f"language is {self.language!r}; {parts.source} knows {', '.join(sorted(parts.languages)) or 'none'}"
            )
        return replace(self, language=code)

    def _check_times(self, parts: WhisperParts) -> None:
        needed = {"segment": ["no_timestamps_token_id"], "word": ["no_timestamps_token_id", "alignment_heads"]}
        for name in needed.get(self.timestamps, []):
            if getattr(parts.generation, name, None) is None:
                raise ValueError(
                    f"timestamps is {self.timestamps!r}, but the generation_config.json of {parts.source} has no "
                    f"{name}; take that of the model that it was made from"
                )
