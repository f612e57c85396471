"""What is checked of settings, and set, before a model is pruned or a setting is saved."""

from __future__ import annotations

from ..adapters import Adapter
from ..adapters.audio_lm.adapter import PromptAdapter
from ..methods import METHODS, Method
from .tokens import needs_from


def check_listed(method: Method) -> None:
    """Raise `ValueError` for a method that could not be read again."""
    name = type(method).__name__
    if METHODS.get(name) is not type(method):
        raise ValueError(
            f"{name} is none of audioprune's methods, by whose names settings are read again; add it first, here "
            f'and where it is read: audioprune.methods.METHODS["{name}"] = {name}'
        )


def check_needs(method: Method) -> None:
    """Raise `ValueError` where a method asks for what there is not."""
    known = (*needs_from("attention"), *needs_from("input"))
    unknown = sorted(set(method.needs) - set(known))
    if unknown:
        raise ValueError(f"{type(method).__name__}.needs names {', '.join(unknown)}; there are {', '.join(known)}")


def set_positions(adapter: Adapter, positions: str) -> None:
    if not isinstance(adapter, PromptAdapter):
        raise ValueError(f"positions is {positions!r}, but only an audio-language model's tokens are numbered anew")
    if positions not in ("renumber", "keep"):
        raise ValueError(f'positions is {positions!r}; it is "renumber" or "keep"')
    adapter.positions = positions
