"""Recipe files: where they are, what they inherit, and what a command overrides."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "recipes"
YAML = (".yaml", ".yml")


class Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-6 as a number. In YAML 1.1 it is a word.

    It makes no objects of Python, and takes no aliases, with which a small file makes values of any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) is not taken; write the value again")
        return super().compose_node(parent, index)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def names() -> list[str]:
    """Names of the recipes that come with audioprune."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(source: str | Path) -> Path:
    """File of a recipe: the path itself if it ends in .yaml, otherwise our recipe of that name."""
    path = Path(source)
    if path.suffix in YAML:
        return path.resolve()
    path = FOLDER / f"{source}.yaml"
    if not path.exists():
        close = difflib.get_close_matches(str(source), names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ValueError(f"no recipe {str(source)!r}{hint} There are {', '.join(names())}; or give a .yaml file")
    return path


def settings_of(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Settings of a file, merged over those of the recipe that it extends."""
    try:
        settings = yaml.load(path.read_text(), Loader=Loader)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a YAML recipe ({_reason(error)})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: contains no settings; write some, such as 'epochs: 10'")
    if Path(str(settings.get("init"))).suffix in YAML:
        settings["init"] = str((path.parent / settings["init"]).resolve())
    extended = settings.pop("extends", None)
    settings.pop("name", None)  # a recipe has the name of its file
    if extended is None:
        return settings
    try:
        below = find(path.parent / str(extended) if Path(str(extended)).suffix in YAML else str(extended))
    except ValueError as error:
        raise ValueError(f"{path}: extends {extended}: {error}") from None
    if below in seen or below == path:
        raise ValueError(f"{path}: extends {extended}, which extends this file again")
    return _merge(settings_of(below, (*seen, path)), settings)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings of `above` merged over those of `below`; groups of settings are merged one by one."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        if both and value.get("method", merged[key].get("method")) != merged[key].get("method"):
            both = False  # another method has other settings
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def override(settings: dict[str, Any], word: str) -> None:
    """Apply "a.b=value", with the value as YAML. "lr" alone is short for "optimizer.lr"."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"--set is {word!r}; write NAME=VALUE, such as epochs=10 or optimizer.lr=1e-4")
    *outer, last = {"lr": "optimizer.lr"}.get(key, key).split(".")
    for name in outer:
        inner = settings.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {word}: {name} has no settings of its own")
        settings = inner
    try:
        settings[last] = yaml.load(value, Loader=Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"--set {word}: the value is not YAML ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """What is wrong with a file, and where, in one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return problem if mark is None else f"line {mark.line + 1}: {problem}"
