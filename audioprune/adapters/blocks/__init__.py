"""Model families whose tokens are reduced inside their transformer blocks."""

from . import spectrogram, speech, transcriber, whisper  # noqa: F401  (each registers its families)
