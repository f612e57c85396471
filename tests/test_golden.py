"""The authors' own code's outputs: logits and kept patches at each stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import audioprune as ap

CASES = [f"{family}-{rest}" for family in ("audiomae", "ast") for rest in ("T128-kr0.5", "T512-kr0.7", "T512-kr0.9")]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_authors_outputs(golden, case: str) -> None:
    data, rate = np.load(golden / f"{case}.npz"), float(case.rsplit("kr", 1)[1])
    model = ap.load(golden / f"{case}.pth", num_attention_heads=4)
    x = torch.from_numpy(data["input"]).reshape(3, -1, 128)
    method = ap.TopK(rate, score="cls" if case.startswith("ast") else "attention")
    with ap.prune(model, method), ap.trace(model) as record:
        logits = model(x).logits
    assert (logits - torch.from_numpy(data["logits"])).abs().max() < 1e-4
    candidates = torch.arange(record.candidates[0].shape[1]).expand(3, -1)
    for stage in range(3):
        kept = torch.from_numpy(data[f"kept_{stage}"].astype(np.int64))
        assert torch.equal(record.kept[stage], kept.sort(1).values)
        theirs = torch.from_numpy(data[f"scores_block{3 * stage + 3}_attn_score"])
        # Their tokens stand in order of score, ours in order of position.
        order = candidates.sort(1).indices
        assert torch.allclose(record.scores[stage], theirs.gather(1, order), atol=1e-6)
        candidates = kept
