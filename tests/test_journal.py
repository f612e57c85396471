"""A file of rows that outlives a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audioprune.files import Journal, lock

ROWS = st.lists(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3), max_size=5)


def read(path: Path) -> list[dict]:
    journal = Journal(path, ValueError, "a row")
    try:
        return [row for _, row in journal.read()]
    finally:
        journal.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.data())
def test_a_kill_anywhere_loses_at_most_the_row_that_was_being_written(tmp_path: Path, rows, data) -> None:
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path, ValueError, "a row")
    journal.append(rows)
    journal.close()
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = rows[: whole[:cut].count(b"\n")]
    assert read(path) == kept
    again = Journal(path, ValueError, "a row")
    list(again.read())
    again.append(rows[len(kept) :])
    again.close()
    assert read(path) == rows


@pytest.mark.parametrize("text", ["notes\n", "[1]\n", '{"a": 1}\nnotes\n', '{"a": 1}\nnotes', "\n"])
def test_what_is_no_row_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    line = 2 if text.startswith("{") else 1
    with pytest.raises(KeyError, match=rf"rows.jsonl: line {line} is not a row of mine; choose another --out, nothing"):
        list(Journal(path, KeyError, "a row of mine").read())  # type: ignore[arg-type]
    assert path.read_text() == text


def test_a_torn_line_must_begin_as_rows_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"path": 1}\n{"pat')
    assert [row for _, row in Journal(path, ValueError, "a row", b'{"path": ').read()] == [{"path": 1}]
    path.write_text('{"path": 1}\n{"notes": 3')
    with pytest.raises(ValueError, match="line 2 is not a row"):
        list(Journal(path, ValueError, "a row", b'{"path": ').read())


def test_one_run_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "rows.jsonl"
    first = Journal(path, ValueError, "a row")
    with pytest.raises(ValueError, match="another run is writing to it; wait for it, or choose another --out"):
        Journal(path, ValueError, "a row")
    first.append([{"a": 1}])
    first.close()
    assert json.loads(path.read_text()) == {"a": 1}
    with open(path) as one, open(path) as other:
        assert lock(one)
        assert not lock(other)
