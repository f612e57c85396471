"""What a calibration found, in words and as a settings file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.settings import RECORD, describe, file_settings
from ..files import write_json
from ..methods import Method
from ..timing import UNSURE, Ratio
from .bounds import CONFIDENCE, clips_needed, upper_bound
from .choose import Choice, Finalist
from .disagreement import Disagreement

SEARCH_SHARE = 0.25
"""Share of the clips that the search is left with at least."""


@dataclass(frozen=True)
class Calibration:
    """The outcome of `calibrate`.

    method: the setting to prune with, its keep rate included; None where none was found.
    shown: whether it is shown to be what was asked for, a limit by tests, a speed-up by its measurement; if not, it is
    so by its estimate alone.
    max_disagreement, speed_up: what was asked for, one of both.
    chosen: the row of `method`.
    rows: every setting that was heard: "name", "setting", "searched" (clips, disagreements, KL); those that were up for
    the choice also "macs_ratio" and "speed_up", and where they were tested "confirmed", "bound" (upper 95 % bound of
    the share that disagrees, of this setting by itself) and "passed".
    about: clips, those of the search and of the tests, batch size, seed, machine.
    """

    method: Method | None
    shown: bool
    max_disagreement: float | None
    speed_up: float | None
    chosen: dict[str, Any] | None
    rows: list[dict[str, Any]]
    about: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """What a settings file tells of how its setting was found."""
        asked = {"max_disagreement": self.max_disagreement, "speed_up": self.speed_up}
        found = {key: value for key, value in (self.chosen or {}).items() if key not in ("name", "setting", "passed")}
        return {"asked": {k: v for k, v in asked.items() if v is not None}, "shown": self.shown, **found, **self.about}

    def save(self, path: str | Path, **more: Any) -> Path:
        """Write a settings file that `prune`, and `--method` of every command, read. more: what else it should tell of
        how its setting was found, such as the model's name.

        Raises `ValueError` where no setting was found.
        """
        if self.method is None:
            raise ValueError("no setting was found, so there is none to save; " + self.sentences[-1])
        settings = file_settings(self.method)
        if settings.get("weights"):
            settings["weights"] = str(Path(settings["weights"]).resolve())
        write_json(Path(path), {**settings, RECORD: {**more, **_sure(self.record)}})
        return Path(path)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        setting = None if self.method is None else describe(self.method)
        return {"setting": setting, **self.record, "sentences": list(self.sentences), "rows": self.rows}

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, and how sure it is, for reading."""
        return (*self._found(), *self._shown())

    def _found(self) -> list[str]:
        if self.chosen is None:
            return []
        one, count = self.chosen, self.chosen["confirmed"]
        return [
            f"{self.method}: {Ratio.of(one)} as fast as unpruned in batches of {self.about['batch_size']}, "
            f"{one['macs_ratio']:.2f}× fewer multiply-accumulates.",
            f"Another top label on {count['disagreements']} of {count['clips']} clips that the search did not hear: "
            f"{_percent(count['disagreements'] / count['clips'])}, upper 95 % bound {_percent(one['bound'])}; "
            f"KL of the outputs {'infinite' if count['kl'] is None else format(count['kl'], '.2g') + ' nats'}.",
            *([] if Ratio.of(one).is_sure else [f"{UNSURE}. The settings file does not tell the speed."]),
        ]

    def _shown(self) -> list[str]:
        limit, clips = self.max_disagreement, self.about["confirming"]
        if limit is None:
            if self.shown:
                return ["One setting alone was heard on these clips, the one that disagreed least in the search."]
            if self.chosen is not None:
                return [f"Not shown: the measurement of the setting above is not sure to be {self.speed_up:g}×."]
            fastest = max((row["speed_up"] for row in self.rows if "speed_up" in row), default=0.0)
            return [
                f"No setting was measured to be {self.speed_up:g}× as fast in batches of {self.about['batch_size']}; "
                f"the fastest was {fastest:.2f}×. Ask for less, or try larger batches."
            ]
        tested = [row for row in self.rows if "passed" in row]
        if self.shown:
            return [
                f"With 95 % confidence the limit of {_percent(limit)} is kept, the choice among settings included: "
                f"{len(tested)} tested in a fixed order, {sum(row['passed'] for row in tested)} passed."
            ]
        least = _percent(upper_bound(0, clips))
        if least_clips(limit) > self.about["clips"]:
            why = (
                f"Not shown: {clips_needed(limit)} clips that all agree are needed to show {_percent(limit)}, "
                f"{least_clips(limit)} with those of the search; there are {self.about['clips']}, and the {clips} of "
                f"them that are kept from the search show {least} at best."
            )
        elif tested:
            why = (
                f"Not shown: too many of the {clips} clips that were kept from the search disagreed, with the mildest "
                f"of the settings that it chose{self._more(limit)}."
            )
        elif self.rows:
            why = "Not shown: no setting that is faster than unpruned kept the limit on the clips of the search."
        else:
            why = f"No setting is faster than unpruned here, in batches of {self.about['batch_size']}; try larger ones."
        return [why]

    def _more(self, limit: float) -> str:
        """How many clips would do if the share that disagrees stayed as it is."""
        if self.chosen is None or self.chosen["confirmed"]["disagreements"] == 0:
            return ""
        share = self.chosen["confirmed"]["disagreements"] / self.chosen["confirmed"]["clips"]
        if share >= limit:
            return ""
        return f"; at the {_percent(share)} of the setting above {2 * clips_needed(limit, share)} clips would show it"


def _sure(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without a speed that was not sure: a file outlives the hour in which the machine was busy."""
    is_sure = Ratio.of(record).is_sure if "speed_up" in record else True
    return {key: value for key, value in record.items() if is_sure or not key.startswith("speed_up")}


def least_clips(limit: float) -> int:
    """The least number of clips, with those of the search, of which a limit can be shown."""
    return math.ceil(clips_needed(limit) / (1 - SEARCH_SHARE))


def row_of(setting: Method, heard: Disagreement, one: Finalist | None, macs_ratio: float | None) -> dict[str, Any]:
    """A row of `Calibration.rows`."""
    row: dict[str, Any] = {"name": str(setting), "setting": describe(setting), "searched": _counts(heard)}
    if one is not None:
        row |= {"macs_ratio": macs_ratio, **one.speed_up.as_dict()}
        if one.confirmed is not None:
            bound = upper_bound(one.confirmed.disagreements, one.confirmed.clips, CONFIDENCE)
            row |= {"confirmed": _counts(one.confirmed), "bound": bound, "passed": one.passed}
    return row


def _counts(heard: Disagreement) -> dict[str, Any]:
    return {
        "clips": heard.clips,
        "disagreements": heard.disagreements,
        "kl": heard.kl if math.isfinite(heard.kl) else None,
    }


def rows_of(
    choice: Choice, heard: Mapping[Method, Disagreement], ratios: Mapping[Method, float]
) -> list[dict[str, Any]]:
    """The settings that were up for the choice first, in the order of the tests, and then all others."""
    finalists = {one.method: one for one in choice.finalists}
    order = (*finalists, *(method for method in heard if method not in finalists))
    return [row_of(method, heard[method], finalists.get(method), ratios.get(method)) for method in order]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
