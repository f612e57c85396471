"""What a model's name stands for: a shipped model, a path, or an id of the hub. Imports no PyTorch."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""Suffixes of weight files."""

EMBEDDED = "esc10"
"""Name of the small AudioMAE that ships with the package, trained on ESC-10."""
LISTENER = "listener"
"""Name of the small audio-language model that ships with the package."""
HUB_SECONDS = 10
"""How long the hub may take to answer."""
_ASSETS = Path(__file__).parent.parent / "assets"
_EMBEDDED = {EMBEDDED: _ASSETS / "audiomae-esc10", LISTENER: _ASSETS / "listener"}


def resolve(source: str | Path) -> str | Path:
    """Path of a source, folder of the shipped model for `"esc10"` and `"listener"`, otherwise the hub id.

    The hub is asked once, in seconds, whether it has a model that is not in its cache: loaders would ask for a minute.
    Raises `FileNotFoundError` if there is no such path, and no such model.
    """
    if source in _EMBEDDED:  # for a folder of that name, write "./esc10"
        return _EMBEDDED[str(source)]
    path = Path(source)
    if path.exists():
        return path
    looks_local = isinstance(source, Path) or path.suffix in SUFFIXES or str(source).startswith((".", "/", "~"))
    if looks_local or str(source).count("/") > 1:
        raise FileNotFoundError(f"{source}: no such file or folder{_similar(path)}")
    try:
        _ask_hub(str(source))
    except LookupError as missing:
        raise FileNotFoundError(
            f"{source}: no such file or folder here, and {missing}; give {EMBEDDED} (shipped), a local folder or "
            f"weight file, or the id of a model on the hub{_similar(path)}"
        ) from missing
    return str(source)


@cache  # of names that the hub has: an error is not kept
def _ask_hub(name: str) -> None:
    """Raise `LookupError` if the hub has no such model, or cannot be reached.

    It is not asked for a model in its cache, nor where `HF_HUB_OFFLINE` is set.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise LookupError("no such model on the hub, or a private one") from error
    except HfHubHTTPError:  # too many requests, for example: the loader asks again
        return
    except Exception as error:  # of whatever library the hub's client uses
        raise LookupError(f"the hub cannot be reached ({type(error).__name__})") from error


def _similar(path: Path) -> str:
    """A question for a path with a similar name; empty if there is none."""
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        try:
            names = [inner.name for inner in (found if found.parts else Path()).iterdir()]
        except OSError:
            return ""
        close = [part] if part in names else get_close_matches(part, names, 1)
        if not close:
            return ""
        found /= close[0]
    return f"; did you mean {found}?" if found.parts else ""
