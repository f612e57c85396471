"""Kinds of methods: what a model must serve for them.

A check that does not depend on a method's formula, but on what the method reads and on how tokens leave it, need not
meet every setting on every model. `one_of_each_kind` says which settings it must meet.
"""

from __future__ import annotations

from audioprune import Method

_SERVED = ("before", "static", "appends", "learns", "needs_gradient")
_SINGLE = ("sequential", "needs_teacher")


def traits(method: Method) -> set[object]:
    """What the method reads, and how tokens leave a stage."""
    merges = getattr(method, "dropped", "merge") == "merge" and "proportional" in vars(method)
    how = (*(getattr(method, name) for name in _SERVED), merges, merges and method.proportional)
    single = {name for name in _SINGLE if getattr(method, name)}
    segments = {"segments"} if getattr(method, "segments", None) else set()
    return {how, *single, *segments, *(method.needs or {"nothing"})}


def one_of_each_kind(methods: dict[str, Method]) -> list[str]:
    """Names of the settings that have a trait which no setting before them has."""
    seen: set[object] = set()
    found = []
    for name, method in methods.items():
        if not traits(method) <= seen:
            found.append(name)
            seen |= traits(method)
    return found
