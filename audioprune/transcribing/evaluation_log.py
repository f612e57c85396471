"""The rows of an evaluation, in a file that survives a kill."""

from __future__ import annotations

from ..bulk.keyed_log import KeyedLog


class EvaluationError(ValueError):
    """Rows that cannot be continued. The message names the file and the remedy."""


class EvaluationLog(KeyedLog):
    """A `KeyedLog` of clips by their names, each with the transcripts of all methods."""

    error = EvaluationError
    row = "a row of this command"
    settings_key, name_key = "settings", "clip"
    asked_key, asked, source = "reference", "transcript", "manifest"
