"""A method's settings as JSON: `pruning.json` beside a model, or any file that `prune` and the commands take."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..methods import METHODS, Method
from ..methods.base import EARLIER_SPACING, LATER
from ..methods.chain import Chain
from ..methods.names import NamedMethod, check_trained, named

SETTINGS = "pruning.json"
WEIGHTS = "pruning.safetensors"
"""Files that `Pruned.save` writes."""
POSITIONS = "positions"
"""The one setting that is not the method's."""
LAYERS = "layers"
"""Version 0.1 wrote it as null for the default; it is now left out, so that files tell which default they mean."""
RECORD = "calibration"
"""What a settings file may say of how its setting was found; nothing is set by it."""

_EXAMPLE = 'it should hold such as {"method": "TopK", "keep_rate": 0.5}'


def read_method(path: str | Path) -> Method:
    """A method from a JSON file: `{"method": "TopK", "keep_rate": 0.5, "segments": 8, …}`; for several methods, a list
    of such under "method".

    Raises `ValueError` that names the file and what is wrong with it.
    """
    return read_settings(path)[0]


def read_settings(path: str | Path) -> tuple[Method, str | None]:
    """The method of a settings file, and the positions."""
    path = Path(path)
    path = path / SETTINGS if path.is_dir() else path
    try:
        settings: Any = json.loads(path.read_text())
    except RecursionError:
        raise ValueError(f"{path}: not a settings file (nested too deeply)") from None
    except FileNotFoundError:
        named = {name.lower(): name for name in METHODS}.get(str(path).lower())
        hint = f"; the method of that name is audioprune.{named}(keep_rate=…)" if named else ""
        raise ValueError(f"{path}: no such settings file or folder{hint}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a JSON settings file ({_brief(error)}); {_EXAMPLE}") from error
    positions = settings.pop(POSITIONS, None) if isinstance(settings, dict) else None
    return _method_of(settings, path, is_file=True), positions


def parse_settings(text: str, source: str = "settings") -> Method:
    """The method that a JSON text describes, as `read_method` reads it from a file; a list is a list of methods.

    source: name of the text in messages. Raises `ValueError` that says what is wrong.
    """
    try:
        settings: Any = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{source}: not JSON ({_brief(error)}); {_EXAMPLE}") from error
    return _method_of(settings, Path(source))


def _brief(error: Exception) -> str:
    """What an error says, without most of a value that is very long."""
    text = str(error)
    return text if len(text) <= 400 else f"{text[:300]} … {text[-90:]}"


def _method_of(settings: Any, path: Path, is_file: bool = False, is_inner: bool = False) -> Method:
    """The method that some settings describe.

    Args:
        settings: the settings.
        path: the file that they are from.
        is_file: whether there is such a file.
        is_inner: whether they are one of a list of methods, which holds no further lists.
    """
    several = settings.get("method") if isinstance(settings, dict) else settings
    if isinstance(several, list) and not is_inner:
        try:
            chain = Chain.of([_method_of(one, path, is_file, is_inner=True) for one in several])
            bias = settings.get("bias") if isinstance(settings, dict) else None
            return chain if bias is None else dataclasses.replace(chain, bias=bias)
        except ValueError as error:
            raise error if str(error).startswith(str(path)) else ValueError(f"{path}: {error}") from error
    if not isinstance(settings, dict) or str(settings.get("method")) not in METHODS:
        raise ValueError(f'{path}: expected {{"method": …}} with one of {", ".join(METHODS)}, or a list of such')
    settings = {name: value for name, value in settings.items() if name != RECORD}
    method = METHODS[settings.pop("method")]
    if settings.get("weights"):  # lie beside the file
        settings["weights"] = str(path.parent / str(settings["weights"]))
    if is_file and settings.get(LAYERS, 0) is None:
        settings[LAYERS] = EARLIER_SPACING
    try:
        return method(**settings)
    except TypeError as error:  # a setting that is unknown or missing
        reason = str(error).removeprefix(f"{method.__name__}.__init__() ")
        taken = ", ".join(field.name for field in dataclasses.fields(method))
        raise ValueError(f"{path}: {reason}; {method.__name__} takes {taken}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {_brief(error)}") from error


def settings_path(word: str) -> tuple[str, list[str]] | None:
    """The settings file, or the folder with one, that a word names, and its modifiers; None if it names neither.

    "mine.json+merge" is `mine.json` with ["merge"]; a path that itself has a + is taken as it is.
    """
    path, *modifiers = [word] if _is_settings(word) else word.split("+")
    return (path, modifiers) if _is_settings(path) else None


def _is_settings(path: str) -> bool:
    return path.endswith(".json") or (path != "" and Path(path).is_dir())


def parse_method(word: str, remedy: str | None = "give the folder of that training") -> NamedMethod:
    """The method behind a word: one of `names.words()` with its modifiers, a JSON file, or a folder with a
    `pruning.json`; files and folders take modifiers too ("mine.json+merge").

    remedy: what to do if the method must be trained first; None to let it pass.

    Raises `ValueError` for a word that names no method, and for a method that has learnt nothing yet.
    """
    located = settings_path(word)
    if located is None:
        method = named(word)
        if remedy is not None:
            check_trained(word, remedy)
        return method
    path, modifiers = located
    method = NamedMethod.of(read_method(path), _name_of(Path(path)))
    for modifier in modifiers:
        method = method.plus(modifier)
    if remedy is not None and "weights" in method.settings and method.settings["weights"] is None:
        raise ValueError(
            f"{path}: {method.kind.__name__} chooses by what it has learnt, and there are no weights; {remedy}"
        )
    return method


def _name_of(path: Path) -> str:
    """What tables and files call the method of a settings file: its own name, or that of the folder."""
    if path.is_dir():
        return path.absolute().name
    return path.absolute().parent.name if path.name == SETTINGS else path.stem


def describe(method: Method | None) -> dict[str, Any]:
    """The settings of a method, as `read_method` reads them; `{"method": None}` for no pruning.

    Settings that earlier versions did not know (`methods.base.LATER`) are left out at their defaults, so that runs of
    these versions go on."""
    if method is None:
        return {"method": None}
    if isinstance(method, Chain):
        return {"method": [describe(one) for one in method.methods], **_bias_of(method)}
    defaults = {f.name: f.default for f in dataclasses.fields(method) if f.metadata.get(LATER)}
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(method).items()
        if name not in defaults or value != defaults[name]
    }
    if method.layers is EARLIER_SPACING:
        settings[LAYERS] = None
    return {"method": type(method).__name__, **settings}


def file_settings(method: Method | None) -> dict[str, Any]:
    """As `describe`, for a settings file: without `layers` if they are the default of this version."""
    if isinstance(method, Chain):
        return {"method": [file_settings(one) for one in method.methods], **_bias_of(method)}
    settings = describe(method)
    if method is not None and method.layers is None:
        del settings[LAYERS]
    return settings


def _bias_of(chain: Chain) -> dict[str, Any]:
    """A chain's own setting: the others are those of its methods."""
    return {} if chain.bias is None else {"bias": list(chain.bias)}
