"""The answers of one setting, in a file that survives a kill."""

from __future__ import annotations

from ..bulk.keyed_log import KeyedLog


class AnswersError(ValueError):
    """A file of answers that cannot be continued. The message names the file and the remedy."""


class AnswerLog(KeyedLog):
    """A `KeyedLog` of answers by the ids of their items, of one model, method and prompt."""

    error = AnswersError
    row = "an answer of this command"
    settings_key, name_key = "setting", "id"
    asked_key, asked, source = "asked", "question", "benchmark"
