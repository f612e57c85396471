"""What people do around a pruned model, and the page that tells of it."""

from __future__ import annotations

import pytest

from .around import CASES, PAGE, Case
from .around.page import row


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.topic}: {case.what}")
@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_comes_of_it(case: Case) -> None:
    if not case.is_met:
        pytest.skip(f"{', '.join(case.needs)} is not installed")
    assert row(case) in PAGE.read_text().splitlines(), "python -m tests.around > docs/around-your-model.md writes it"


def test_there_are_no_others_on_the_page() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) == len(CASES)
