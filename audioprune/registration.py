"""Registration of AudioMAE with transformers' Auto classes, without importing transformers earlier than needed."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _config(auto: Any) -> None:
    from .models.audiomae_config import AudioMAEConfig

    auto.AutoConfig.register(AudioMAEConfig.model_type, AudioMAEConfig, exist_ok=True)


def _extractor(auto: Any) -> None:
    from .audio.extractor import AudioMAEFeatureExtractor
    from .models.audiomae_config import AudioMAEConfig

    auto.AutoFeatureExtractor.register(AudioMAEConfig, AudioMAEFeatureExtractor, exist_ok=True)


_STEPS: dict[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": _config,
    "transformers.models.auto.feature_extraction_auto": _extractor,
}
"""Module of Auto classes → step to run after its import.

The models are registered later, with the first config, because their modules may be only half imported at this time.
"""


def register_with_transformers() -> None:
    """Register AudioMAE with the Auto classes that are imported, and with the others when they are imported."""
    waiting = {}
    for name, step in _STEPS.items():
        if name in sys.modules:
            step(sys.modules[name])
        else:
            waiting[name] = step
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))


class _Finder(importlib.abc.MetaPathFinder):
    """Import hook for some modules. It removes itself after the last of them."""

    def __init__(self, waiting: dict[str, Callable[[Any], None]]) -> None:
        self._waiting = waiting

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        step = self._waiting.pop(fullname, None)
        if step is None:
            return None
        if not self._waiting:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, step)
        return spec


class _Loader(importlib.abc.Loader):
    """Loader that runs a module's own loader, and then a step."""

    def __init__(self, own: importlib.abc.Loader, step: Callable[[Any], None]) -> None:
        self._own, self._step = own, step

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._step(module)
