"""Facts about the run, for the head of a report."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .formatting import number

PACKAGES = ("audioprune", "torch", "transformers", "numpy", "matplotlib")

About = Mapping[str, Any]
_HEAD_KEYS = {
    "how", "model", "models", "tuned", "data", "data_name", "clips", "folds", "split", "limit", "keep_rates", "score",
    "tau", "tau_given", "boundaries", "clusters", "metric", "skipped", "command", "date", "machine", "versions",
    "seconds",
}  # fmt: skip


def head(about: About) -> list[tuple[str, str]]:
    """Name and text of each known fact about a run, in order.

    about: `models` (a name, a list, or {keep rate: name}) or `model`; `how`, a sentence about them; `tuned`, whether
    each keep rate has its own; `data_name` or `data`; `clips`, `folds`, `split`, `limit`; `keep_rates`; `score`; `tau`,
    `tau_given`; `boundaries` of the clusters; `metric`; `skipped`; `command`; `date`; `seconds`; `machine`;
    `versions`. All other entries come last, under their own names.
    """
    lines = [(name, text) for name, text in _lines(about) if text]
    return lines + [
        (_worded(name), _text(value)) for name, value in about.items() if name not in _HEAD_KEYS and _some(value)
    ]


def _lines(about: About) -> Iterator[tuple[str, str]]:
    yield "Model", str(about.get("how") or _models(about.get("models") or about.get("model")))
    if "tuned" in about:
        yield (
            "Fine-tuned",
            "for each keep rate" if about["tuned"] else "not for the keep rates: pruned without fine-tuning",
        )
    yield "Sounds", _sounds(about)
    yield "Keep rates", _text(about.get("keep_rates"))
    score = {"attention": "attention received from all patches", "cls": "attention of the CLS token"}
    yield "Tokens ranked by", score.get(str(about.get("score")), _text(about.get("score")))
    if (tau := about.get("tau")) is not None:
        origin = {True: ", as given", False: ", from the histogram of the data set"}.get(about.get("tau_given"), "")  # type: ignore[arg-type]
        yield "Threshold τ", f"{number(float(tau), digits=2)}{origin}: patches with a higher mean are signal"
    yield "Clusters", _clusters(about)
    yield "Metric", _text(about.get("metric"))
    yield "Left out", _text(about.get("skipped"))
    yield "Command", _text(about.get("command"))
    yield "Date", _text(about.get("date"))
    yield "Took", f"{float(about['seconds']):,.0f} s" if about.get("seconds") is not None else ""
    yield "Machine", _text(about.get("machine"))
    yield "Versions", _text(about.get("versions") or versions())


def versions() -> dict[str, str]:
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    return numbers


def _models(models: Any) -> str:
    """Name of the model, or names of the models of each keep rate."""
    if isinstance(models, Mapping):
        if len(set(models.values())) == 1:
            return str(next(iter(models.values())))
        return ", ".join(f"{model} at {rate}" for rate, model in models.items())
    return _text(models)


def _sounds(about: About) -> str:
    clips = about.get("clips")
    parts = [_text(about.get("data_name") or about.get("data")), "" if clips is None else f"{number(clips)} clips"]
    folds = about.get("folds") or ()
    parts += [f"fold{'s' if len(folds) > 1 else ''} {_text(folds)}" if folds else ""]
    parts += [f"{about['split']} part" if about.get("split") else ""]
    parts += [f"at most {about['limit']}, at even distances" if about.get("limit") else ""]
    return ", ".join(filter(None, parts))


def _clusters(about: About) -> str:
    boundaries = about.get("boundaries")
    if not boundaries:
        return _text(about.get("clusters"))
    edges = ", ".join(number(float(edge)) for edge in boundaries)
    return f"C1, the quietest, to C{len(boundaries) + 1}; boundaries between them: {edges}"


def _some(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != () and value != {}


def _text(value: Any) -> str:
    if not _some(value):
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _worded(name: str) -> str:
    return name.replace("_", " ").capitalize()
