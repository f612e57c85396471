"""Prompts of the benchmarks."""

from __future__ import annotations

from .items import Item

PROMPTS = {
    "clotho": "Describe this audio in one short sentence.",
    "audiocaps": "Describe this audio in one short sentence.",
    "clothoaqa": "{question} Answer with a single word.",
    "mmau": "{question} Answer with one of these options, in its words:\n{choices}",
}
"""Benchmark → prompt. {question} and {choices} stand for those of an item; each choice gets its own line."""

MAX_NEW_TOKENS = {"clotho": 64, "audiocaps": 64, "clothoaqa": 16, "mmau": 64}
"""Benchmark → length of the longest answer, in tokens."""


def check_prompt(benchmark: str, prompt: str) -> None:
    """Raise `ValueError` if a prompt lacks a field that its benchmark needs."""
    wanted = [field for field in ("{question}", "{choices}") if field in PROMPTS[benchmark]]
    missing = [field for field in wanted if field not in prompt]
    if missing or not prompt.strip():
        raise ValueError(
            f"the prompt is {prompt!r}; {benchmark} needs {' and '.join(missing) or 'some text'} in it, as in "
            f"{PROMPTS[benchmark]!r}"
        )


def fill_prompt(item: Item, prompt: str) -> str:
    """Prompt with the question and the choices of an item."""
    # The choices first: a question may contain braces, but a choice rarely does.
    choices = "\n".join(f"- {choice}" for choice in item.choices)
    return prompt.replace("{choices}", choices).replace("{question}", item.question)
