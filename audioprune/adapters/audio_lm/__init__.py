"""Adapters of audio-language models: the prompt is shortened between the audio encoder and the language model."""

from . import adapter  # noqa: F401  (it registers the family)
