"""What a run was asked for, told without PyTorch: a run with nothing left to do need not load its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import fingerprints
from ..files import Row
from ..models.sources import resolve

ELSEWHERE = "adapter_config.json"
"""File in the folder of an adapter, whose model is in another place."""


@dataclass(frozen=True)
class Asked:
    """Words of a command, and the sizes and times of the files that they name.

    The same words and files give the same setting. So if a file of results says which setting came of them, the setting
    of a new run is known before its model is loaded.
    """

    words: dict[str, Any]
    files: list[Any]

    def mark(self, setting: Row) -> str:
        """Fingerprint of all this and of the setting that came of it."""
        return fingerprints.of_parts([json.dumps([self.words, self.files, setting], sort_keys=True).encode()])


def asked_for(model: str, method: str | None, **words: Any) -> Asked | None:
    """What is asked for; None if the files of the model are not known, such as those of the hub.

    Args:
        model: word for the model.
        method: word for the method, or None.
        **words: everything else that the setting follows from, with the version of audioprune.
    """
    try:
        source = resolve(model)
        if not isinstance(source, Path) or (source / ELSEWHERE).exists():
            return None
        files = [_files(path) for path in (source, *_method_paths(method)) if path.exists()]
    except OSError:
        return None
    return Asked({"model": model, "method": method, **words}, files)


def _method_paths(word: str | None) -> list[Path]:
    """Paths that a word for a method may name: all of it, or what is before its modifiers."""
    return [Path(path) for path in dict.fromkeys((word, word.partition("+")[0])) if path] if word else []


def _files(path: Path) -> list[tuple[str, int, int, int]]:
    """Name, size and times of a file, or of each file in a folder.

    A copy may keep the time of its last change (`st_mtime`). `st_ctime` then tells that it was put there later.
    """
    paths = sorted(inner for inner in path.iterdir() if inner.is_file()) if path.is_dir() else [path]
    stats = [(inner.name, inner.stat()) for inner in paths]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
