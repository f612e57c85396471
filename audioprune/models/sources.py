"""What a model's name stands for: a shipped model, a path, or an id of the hub. Imports no PyTorch."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""Suffixes of weight files."""

EMBEDDED = "esc10"
"""Name of the small AudioMAE that ships with the package, trained on ESC-10."""
LISTENER = "listener"
"""Name of the small audio-language model that ships with the package."""
_ASSETS = Path(__file__).parent.parent / "assets"
_EMBEDDED = {EMBEDDED: _ASSETS / "audiomae-esc10", LISTENER: _ASSETS / "listener"}


def resolve(source: str | Path) -> str | Path:
    """Path of a source, folder of the shipped model for `"esc10"` and `"listener"`, otherwise the hub id."""
    if source in _EMBEDDED:  # for a folder of that name, write "./esc10"
        return _EMBEDDED[str(source)]
    path = Path(source)
    if path.exists():
        return path
    looks_local = isinstance(source, Path) or path.suffix in SUFFIXES or str(source).startswith((".", "/", "~"))
    if looks_local or str(source).count("/") > 1:
        raise FileNotFoundError(f"{source}: no such file or folder")
    return str(source)
