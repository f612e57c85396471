"""A command shows audioprune's own warnings, and none of other libraries'."""

from __future__ import annotations

import warnings

import pytest

from audioprune.cli import console


def warn_as(module: str) -> None:
    code = compile("import warnings; warnings.warn('something')", module, "exec")
    exec(code, {"__name__": module})


def test_own_warnings_are_notes(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIOPRUNE_DEBUG", raising=False)
    with console.own_warnings():
        warnings.simplefilter("always")
        warn_as(str(console.PACKAGE / "core" / "made_up.py"))
        warn_as("/usr/lib/somebody/else.py")
    assert capsys.readouterr().err == "note: something\n"


def test_all_are_shown_to_who_debugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOPRUNE_DEBUG", "1")
    with pytest.warns(UserWarning, match="something"), console.own_warnings():
        warn_as("/usr/lib/somebody/else.py")
