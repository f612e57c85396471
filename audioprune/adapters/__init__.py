"""Connections to model families. Adapters know no methods."""

from . import audio_lm, blocks  # noqa: F401  (each registers its families)
from .base import Adapter, UnsupportedModelError, find_adapter, register_adapter

__all__ = ["Adapter", "UnsupportedModelError", "find_adapter", "register_adapter"]
