"""The clips that ship with the package are heard as what they are, unpruned and pruned."""

from __future__ import annotations

import audioprune as ap
from audioprune.cli.demo import CLIPS
from audioprune.core.recommend import recommended
from audioprune.methods import TopK
from audioprune.tagging.tagger import Tagger

LABELS = {
    "baby": "baby_cry",
    "chainsaw": "chainsaw",
    "clock": "clock_tick",
    "fire": "fire_crackling",
    "helicopter": "helicopter",
    "rain": "rain",
}


def test_every_clip_is_heard_right() -> None:
    model = ap.load("esc10")
    tagger = Tagger(model, ap.load_features("esc10", model), top=1)
    clips = sorted(CLIPS.glob("*.ogg"))
    assert [clip.stem for clip in clips] == list(LABELS)
    for method in (TopK(1.0), recommended(model), recommended(model, macs=0.25)):
        with ap.prune(model, method):
            heard = {clip.stem: row["labels"][0]["label"] for clip, row in zip(clips, tagger(clips), strict=True)}
        assert heard == LABELS, method
