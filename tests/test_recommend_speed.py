"""What is recommended by time: against a search of all settings, by a cost that is made up."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import audioprune as ap
from audioprune.core import recommend_speed as speed
from audioprune.core.recommend import recommended_before
from audioprune.core.recommend_speed import SHARES, TooFastError, mean_share
from audioprune.timing import Ratio

from .families import audiomae, transcriber, wav2vec2, whisper

DEPTH = 12


def seconds(method: ap.Method, overhead: float, depth: int = DEPTH) -> float:
    """Of a forward, as a share of the unpruned one: the tokens, and so much for each block that merges."""
    stages = tuple(method.schedule(depth))
    return mean_share(method.keep_rate, stages, depth) + overhead * len(stages)


def measured_by(overhead: float, depth: int = DEPTH) -> Callable[..., list[Ratio]]:
    return lambda model, methods, inputs, seconds_=0.0: [Ratio(1 / seconds(one, overhead, depth)) for one in methods]


@pytest.mark.parametrize("overhead", [0.0, 0.005, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("speed_up", [1.2, 1.5, 2.0, 3.0])
def test_the_mildest_setting_that_is_fast_enough(monkeypatch, overhead: float, speed_up: float) -> None:
    monkeypatch.setattr(speed, "measure", measured_by(overhead))
    every = [(level, one) for ladder in speed._ladders(DEPTH) for level, one in enumerate(ladder)]
    fast = [level for level, one in every if 1 / seconds(one, overhead) >= speed_up]
    model = audiomae(num_hidden_layers=DEPTH)
    if not fast:
        with pytest.raises(TooFastError, match="ask for less"):
            ap.recommended(model, speed_up=speed_up)
        return
    found = ap.recommended(model, speed_up=speed_up)
    assert 1 / seconds(found, overhead) >= speed_up
    assert min(level for level, one in every if one == found) == min(fast)


def test_few_tokens_merge_in_fewer_blocks(monkeypatch) -> None:
    model = audiomae(num_hidden_layers=DEPTH)
    monkeypatch.setattr(speed, "measure", measured_by(0.0))
    assert len(ap.recommended(model, speed_up=1.5).schedule(DEPTH)) == DEPTH
    monkeypatch.setattr(speed, "measure", measured_by(0.05))
    assert len(ap.recommended(model, speed_up=1.5).schedule(DEPTH)) <= 4


def test_nothing_slower_than_the_model_is_returned(monkeypatch) -> None:
    """Also where the search was misled: what it found is measured again."""
    calls = []

    def measure(model, methods, inputs, seconds_=0.0) -> list[Ratio]:
        calls.append(len(methods))
        return [Ratio(0.8 if seconds_ else 5.0)] * len(methods)

    monkeypatch.setattr(speed, "measure", measure)
    with pytest.raises(TooFastError):
        ap.recommended(audiomae(), speed_up=1.2)
    assert calls[-1] == 1


def test_a_busy_machine_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(speed, "measure", lambda model, methods, *_: [Ratio(3.0, 0.5, 9.0)] * len(methods))
    with pytest.warns(UserWarning, match="too wide to trust"):
        ap.recommended(audiomae(), speed_up=1.2)


@pytest.mark.parametrize("depth", [1, 2, 4, 6, 12, 24, 32])
def test_settings_grow_harsher_on_every_ladder(depth: int) -> None:
    ladders = speed._ladders(depth)
    assert ladders
    for ladder in ladders:
        shares = [mean_share(one.keep_rate, tuple(one.schedule(depth)), depth) for one in ladder]
        assert shares == sorted(shares, reverse=True)
        assert all(share <= level for share, level in zip(shares, SHARES, strict=False))


def test_it_is_measured_on_the_model_as_it_is() -> None:
    model = audiomae().train()
    ratios = speed.measure(model, [ap.ToMe(0.9), ap.ToMe(0.6)], torch.randn(2, 128, 128), 0.001)
    assert all(ratio > 0 for ratio in ratios)
    assert ap.handle(model) is None
    assert model.training


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (audiomae, {"speed_up": 2.0, "macs": 0.5}, "not both"),
        (audiomae, {"speed_up": 1.0}, "more than 1"),
        (audiomae, {"speed_up": float("nan")}, "more than 1"),
        (wav2vec2, {"speed_up": 2.0}, "typical batch"),
        (whisper, {"speed_up": 2.0}, "do not pad"),
        (transcriber, {"speed_up": 2.0}, "do not pad"),
    ],
)
def test_what_cannot_be_chosen_by_time(model, words, message) -> None:
    with pytest.raises(ValueError, match=message):
        ap.recommended(model(), **words)


def test_tag_goes_on_with_what_was_chosen(run, clips, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(speed, "measure", measured_by(0.0))
    code, _, err = run("tag", clips, "--speed-up", "1.5", "--out", "a.jsonl")
    assert code == 0, err
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("measured again"))
    code, _, err = run("tag", clips, "--speed-up", "1.5", "--out", "a.jsonl")
    assert code == 0, err
    again = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [row["setting"] for row in again] == [row["setting"] for row in rows]
    code, _, err = run("tag", clips, "--speed-up", "1.5", "--keep-rate", "0.5")
    assert code == 2
    assert "leave out --method" in err


def test_tag_goes_on_with_what_an_earlier_version_recommended(run, clips, monkeypatch) -> None:
    """Merging in every block: the rows of one run have one setting."""
    words = ("tag", clips, "--out", "a.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr("audioprune.cli.options.ChosenMethod.for_model", lambda _, model, __: recommended_before(model))
        patched.setattr(sys.modules["audioprune.cli.tag"], "__version__", "0.1.0")
        assert run(*words)[0] == 0
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    for row in rows:
        del row["asked"]  # which 0.1 did not write
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-3]))
    code, _, err = run(*words)
    assert code == 0, err
    again = [json.loads(line)["setting"] for line in Path("a.jsonl").read_text().splitlines()]
    assert {setting["layers"] for setting in again} == {"all"}
    assert len(again) == len(rows)
