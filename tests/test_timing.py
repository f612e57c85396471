"""Ratios of times tell how sure they are; what was not sure is not stored; tables with them fit 80 columns."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from audioprune.calibration.report import _sure
from audioprune.timing import MOST_SPREAD, ROUNDS, UNSURE, Ratio, median_interval, take_turns, unsure_note


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12, unique=True))
def test_the_interval_of_a_median_has_its_confidence(values: list[float]) -> None:
    """Against all orders of above and below: ranks that miss the median in at most 5 % of them."""
    low, high = median_interval(values)
    ordered, n = sorted(values), len(values)
    first, last = ordered.index(low), ordered.index(high)
    assert first == n - 1 - last
    below = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
    missed = sum(count <= first or count > last for count in below) / 2**n
    narrower = sum(count <= first + 1 or count > last - 1 for count in below) / 2**n
    assert missed <= 0.05 or (first, last) == (0, n - 1)
    assert narrower > 0.05


def test_what_slows_a_whole_round_has_no_part_in_the_ratio() -> None:
    slow = [2.0 * 10**i for i in range(ROUNDS)]
    ratio = Ratio.between(slow, [one / 2 for one in slow])
    assert (ratio, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert ratio.is_sure
    assert str(ratio) == "2.00× ±0.00"


def test_a_wide_or_short_measurement_is_not_sure() -> None:
    wide = Ratio.between([1.0, 1.5, 1.0, 2.0, 1.0, 1.2], [1.0] * 6)
    assert not wide.is_sure
    assert str(wide).endswith(" ?")
    assert wide.high - wide.low > MOST_SPREAD * wide
    assert not Ratio.between([1.0] * (ROUNDS - 1), [1.0] * (ROUNDS - 1)).is_sure
    assert unsure_note([Ratio(1.0), wide]) == UNSURE
    assert unsure_note([Ratio(1.0)]) == ""


def test_noise_is_told_from_gain() -> None:
    """In nineteen of twenty measurements the true ratio is within the interval."""
    draw, missed = np.random.default_rng(0), 0
    for _ in range(200):
        slow, fast = 2 * draw.lognormal(0, 0.3, 15), draw.lognormal(0, 0.3, 15)
        ratio = Ratio.between(slow.tolist(), fast.tolist())
        missed += not ratio.low <= 2 <= ratio.high
    assert missed <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_a_ratio_goes_through_json_and_pickle() -> None:
    ratio = Ratio(1.5, 1.0, 2.0, 7)
    row = json.loads(json.dumps({"runs": 7, **ratio.as_dict()}))
    again = Ratio.of(row)
    assert (again, again.low, again.high, again.is_sure) == (ratio, ratio.low, ratio.high, ratio.is_sure)
    assert Ratio.of({"speed_up": 3.0}).is_sure
    copy = pickle.loads(pickle.dumps(ratio))
    assert (copy, copy.low, copy.high, copy.rounds) == (1.5, 1.0, 2.0, 7)


def test_every_round_makes_every_call_once() -> None:
    seen: list[int] = []

    def call(i: int) -> float:
        seen.append(i)
        return float(len(seen))

    times = take_turns([lambda i=i: call(i) for i in range(3)], 1e-9)
    assert [len(each) for each in times] == [ROUNDS] * 3
    rounds = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert all(sorted(one) == [0, 1, 2] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_a_settings_file_does_not_hold_what_was_not_sure() -> None:
    sure = {"macs_ratio": 3.0, **Ratio(2.0, 1.9, 2.1, 9).as_dict()}
    assert _sure(sure) == sure
    assert _sure({"macs_ratio": 3.0, **Ratio(4.76, 1.0, 9.0, 9).as_dict()}) == {"macs_ratio": 3.0}
    assert _sure({"macs_ratio": 3.0}) == {"macs_ratio": 3.0}


# The package's own names are those of the commands.
bench, compare, export = (import_module(f"audioprune.cli.{name}") for name in ("bench", "compare", "export"))
UNCERTAIN = Ratio(10.42, 1.0, 30.0).as_dict()
ROW = {
    "batch_size": 16,
    "keep_rate": 0.88,
    "tokens": [1500, 1024],
    "macs": 123e9,
    "macs_ratio": 12.34,
    "latency_ms": 1234.5,
    "clips_per_second": 1234.5,
    "peak_bytes": 2**33,
    **UNCERTAIN,
}
TABLES = {
    "bench": lambda: bench._table([ROW], "esc10"),
    "bench of a Whisper": lambda: bench._transcription_table(
        [
            ROW
            | Ratio(10.42, 1.0, 30.0).as_dict("encoder_speed_up")
            | {"new_tokens": 120, "encoder_ms": 12345.6, "first_token_ms": 1234.5, "real_time_factor": 1.234}
        ],
        "whisper",
    ),
    "export": lambda: export._table(
        [
            {"batch_size": 16, "torch_ms": 12345.6, "onnx_ms": 1234.5, "unpruned_onnx_ms": 12345.6}
            | Ratio(40.52, 1.0, 80.0).as_dict("faster")
            | Ratio(10.42, 1.0, 30.0).as_dict("saved")
        ]
    ),
    "compare": lambda: compare._table(
        {
            "model": "esc10",
            "data": "sounds",
            "metric": "accuracy",
            "clips": 80,
            "unpruned": {"score": 0.9, "macs": 8e8, "timing": [ROW]},
            "rows": [
                {
                    "method": "segmentwise+merge",
                    "keep_rate": 0.5,
                    "fine_tuned": False,
                    "score": {"mean": 0.9},
                    "agreement": {"mean": 1.0},
                    "kl": {"mean": 0.0123},
                    "macs_ratio": 2.0,
                    "front": True,
                    "timing": [ROW | {"latency_ms": 123.4}],
                }
            ],
        }
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_eighty_columns(name: str) -> None:
    def lines(width: int) -> list[str]:
        file = io.StringIO()
        Console(file=file, width=width, markup=False).print(TABLES[name]())
        return [line for line in file.getvalue().splitlines() if line.strip()]

    narrow, wide = lines(80), lines(400)
    rows = [line for line in narrow if "×" in line]
    assert len(rows) == sum("×" in line for line in wide), "\n".join(narrow)
    assert "…" not in "".join(narrow)
    assert rows[-1].split() == [line for line in wide if "×" in line][-1].split(), "\n".join(narrow)
    assert " ? " in f"{rows[-1]} "
    assert "too wide to trust" in "\n".join(narrow).replace("\n", " ")
