"""What a model is asked about an item."""

from __future__ import annotations

from .items import Item

PROMPTS = {
    "clotho": "Describe this audio in one short sentence.",
    "audiocaps": "Describe this audio in one short sentence.",
    "clothoaqa": "{question} Answer with a single word.",
    "mmau": "{question} Answer with one of these options, in its words:\n{choices}",
}
"""Benchmark to prompt. {question} and {choices} stand for an item's; choices come a line each."""

MAX_NEW_TOKENS = {"clotho": 64, "audiocaps": 64, "clothoaqa": 16, "mmau": 64}
"""Benchmark to the longest answer, in tokens."""


def check_prompt(benchmark: str, prompt: str) -> None:
    """Raise `ValueError` where a prompt leaves out what its benchmark asks."""
    wanted = [field for field in ("{question}", "{choices}") if field in PROMPTS[benchmark]]
    missing = [field for field in wanted if field not in prompt]
    if missing or not prompt.strip():
        raise ValueError(
            f"the prompt is {prompt!r}; {benchmark} needs {' and '.join(missing) or 'one'} in it, as in "
            f"{PROMPTS[benchmark]!r}"
        )


def asked(item: Item, prompt: str) -> str:
    """The prompt with the item's question and choices."""
    # The choices first: a question may speak of braces, an option hardly.
    choices = "\n".join(f"- {choice}" for choice in item.choices)
    return prompt.replace("{choices}", choices).replace("{question}", item.question)
