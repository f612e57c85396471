"""Files that outlive a kill: whole or not at all, or row by row."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audioprune.files import Journal, check_same, differences, draft, write_bytes, write_json, write_text
from audioprune.locks import lock

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


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with suppress(KeyboardInterrupt), draft(path) as made:
        made.write_text("hal")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    write_json(path, {"a": "é"}, ensure_ascii=False)
    assert path.read_text(encoding="utf-8") == '{\n "a": "é"\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {1, 2})
    with draft(path) as made:
        made.write_text("half")
        assert json.loads(path.read_bytes()) == {"a": "é"}
    assert path.read_text() == "half"
    write_text(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    write_bytes(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert list(path.parent.iterdir()) == [path]


def test_a_draft_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    with draft(tmp_path / "a" / "b.txt", tmp_path / "drafts") as made, draft(tmp_path / "b.txt") as other:
        assert made.parent == tmp_path / "drafts"
        assert other.parent == tmp_path, "and two threads may write one file"
        assert made.name != other.name
        made.write_text("1")
        other.write_text("2")
    assert (tmp_path / "a" / "b.txt").read_text() == "1"
    assert (tmp_path / "b.txt").read_text() == "2"


def test_what_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        write_text(tmp_path / "a", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_differs_is_named() -> None:
    begun = {"model": "a", "layers": [1, 2], "method": {"keep_rate": 0.5, "of": {"seed": 1}}, "only here": 1}
    assert differences(begun, {**begun, "layers": (1, 2)}) == []
    asked = {"model": "b", "layers": (1,), "method": {"keep_rate": 0.5, "of": {"seed": 2}}, "new": "x" * 200}
    found = ["layers=[1, 2] (not [1])", "method.of.seed=1 (not 2)", "model='a' (not 'b')"]
    assert differences(begun, asked, only_shared=True) == found
    assert differences(begun, asked) == [*found, f"new=None (not '{98 * 'x'}…)", "only here=1 (not None)"]
    assert differences({"method": None}, {"method": {"seed": 1}}) == ["method=None (not {'seed': 1})"]


def test_what_an_earlier_version_wrote_is_the_same() -> None:
    asked = {"weights": "long", "seed": 0}
    calls = []

    def earlier() -> str:
        calls.append(1)
        return "short"

    for weights, others in (("long", 0), ("short", 1), ("other", 2)):
        found = differences({**asked, "weights": weights}, asked, earlier={"weights": earlier})
        assert (bool(found), len(calls)) == (weights == "other", others)
    assert found == ["weights='other' (not 'long')"]


def test_files_of_another_run_are_refused() -> None:
    check_same(Path("out"), {"a": 1}, {"a": 1}, ValueError)
    with pytest.raises(
        ValueError, match=r"out: begun with a=1 \(not 2\); give the same settings to continue, or another x"
    ):
        check_same(Path("out"), {"a": 1}, {"a": 2}, ValueError, "another x")
