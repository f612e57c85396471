"""The page of `audioprune app` under load: many visitors, visitors who must be refused, and what it leaves behind.

A small model, served from this process; scripts/page_load.py does the same to the command, and measures.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

import audioprune as ap
from audioprune.app.answer import compare
from audioprune.app.studio import Studio
from audioprune.app.turn import Turn
from audioprune.cli.app import choices
from audioprune.tagging.tagger import Tagger

from .conftest import tone
from .families import audiomae
from .media import FORMATS, can_encode, encode

pytest.importorskip("gradio", reason="gradio is not here: pip install 'audioprune[app]'")

from audioprune.app import server, studio
from audioprune.app import turn as turns
from page_client import API, PageClient
from page_load import guessed, listener
from page_probes import addresses, fetch, leaks_of_payloads, leaks_of_routes

VISITORS = 8
QUICK = 0.01
SETTING: dict[str, Any] = {"method": "topk", "keep-rate": 0.5}


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV")
    return file.getvalue()


@contextmanager
def served(studio: Studio) -> Iterator[str]:
    """Address of a page, which is served from this process."""
    from audioprune.app.page import page

    with ExitStack() as ends:
        environment = ends.enter_context(pytest.MonkeyPatch.context())
        for name in ("no_proxy", "NO_PROXY", "GRADIO_ANALYTICS_ENABLED"):
            environment.setenv(name, os.environ.get(name, ""))
        ends.enter_context(server.upload_folder())
        blocks = page(studio, ["small"], choices(), any_model=False)
        port = server.free_port("127.0.0.1", 0)
        server.launch(blocks, "127.0.0.1", port)
        ends.callback(blocks.close, verbose=False)
        ends.callback(studio.end)
        yield f"http://127.0.0.1:{port}"


def small(build: Callable[..., ap.Method] = lambda name, rate, score, model: ap.TopK(rate)) -> Studio:
    return Studio(lambda name: Tagger(audiomae().eval(), ap.LogMel(128)), build)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio, "compare", partial(compare, seconds=QUICK))
        with served(small()) as found:
            yield found


@pytest.fixture
def client(address: str) -> PageClient:
    return PageClient(address)


def test_visitors_at_once_get_the_answers_to_their_own_sounds(address: str) -> None:
    sounds = {f"tone-{number}.wav": wav(tone(1.2, hertz=200.0 * 1.5**number)) for number in range(VISITORS)}
    asked = PageClient(address)
    alone = {name: asked.hear(sound, name, **SETTING).labels for name, sound in sounds.items()}
    assert len({str(labels) for labels in alone.values()}) == VISITORS, "sounds that the model tells apart"
    together = threading.Barrier(VISITORS)

    def visit(name: str) -> bool:
        visitor = PageClient(address)
        together.wait()
        answer = visitor.hear(sounds[name], name, **SETTING)
        return f">{name} · " in answer.verdict and answer.labels == alone[name] != ()

    with ThreadPoolExecutor(VISITORS) as pool:
        assert all(pool.map(visit, sounds))


def test_a_stranger_gets_no_file(client: PageClient, tmp_path: Path) -> None:
    sound = wav(tone(1.2))
    own = Path(client.upload(sound, "own.wav"))
    assert fetch(client.address, f"{API}/file={own}") == (200, sound)
    folder, secret = own.parent.parent, tmp_path / "secret.wav"
    secret.write_bytes(sound)
    (folder / "link.wav").symlink_to(secret)
    (own.parent / "link.wav").symlink_to(secret)
    hidden = [secret, folder / "link.wav", own.parent / "link.wav", *guessed(folder, sound, "own.wav")[:2]]
    count, leaks = leaks_of_routes(client, [Path(__file__), *hidden], str(folder))
    assert count > 1000
    assert not leaks
    count, leaks = leaks_of_payloads(client, [str(path) for path in (Path(__file__), *hidden)])
    assert count == 24
    assert not leaks
    assert "own.wav" in client.ask({"path": str(own)}, **SETTING).verdict


def test_the_server_opens_no_address(client: PageClient) -> None:
    with listener() as (port, heard):
        names = addresses(port)
        assert leaks_of_payloads(client, names)[1] == []
        for name in names:
            assert fetch(client.address, f"{API}/file={name}")[0] == 403
            assert fetch(client.address, f"{API}/proxy={name}")[0] == 403
        assert not heard
    video = client.http.post(f"{API}/process_recording", files={"video": ("a.mp4", b"a")})
    assert video.status_code == 403


def test_what_is_no_sound_is_told_and_holds_nobody_up(client: PageClient) -> None:
    assert "no.wav: cannot be decoded as audio" in client.hear(b"no sound" * 99, "no.wav", **SETTING).message
    assert "empty.wav: the file is empty" in client.hear(b"", "empty.wav", **SETTING).message
    assert (
        "unhashable" in client.ask({"path": client.upload(b"a", "a.wav")}, method="topk", **{"keep-rate": []}).message
    )
    assert "fine.wav" in client.hear(wav(tone(1.2)), "fine.wav", **SETTING).verdict


def test_a_long_sound_shows_its_progress(client: PageClient) -> None:
    answer = client.hear(wav(tone(30.0)), "long.wav", **SETTING)
    assert "Heard whole: 30.0 s" in answer.message
    assert len(answer.steps) > 2
    assert list(answer.steps) == sorted(answer.steps)


def test_a_video_is_heard(client: PageClient, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra media (PyAV) is not installed")
    config = client.http.get("/config").json()
    (button,) = [part for part in config["components"] if part["props"].get("elem_id") == "sound-video"]
    assert {".mp4", ".mov", ".webm", ".mkv"} < set(button["props"]["file_types"])
    kind = FORMATS["mp4"]
    if not can_encode(kind):
        pytest.skip("this FFmpeg cannot make an MP4")
    path = encode(tmp_path / "video.mp4", tone(1.2, kind.rate), kind)
    assert "video.mp4" in client.hear(path, "video.mp4", **SETTING).verdict


def test_no_program_converts_what_was_uploaded(tmp_path: Path) -> None:
    import gradio as gr

    from audioprune.app.sound_input import sound_input

    with gr.Blocks():
        sound = sound_input("Sound", "sound")
    given = sound.postprocess(str(tmp_path / "a.mp4"))
    assert given is not None
    assert (given.path, given.orig_name) == (str(tmp_path / "a.mp4"), "a.mp4")
    assert sound.postprocess(None) is None
    assert sound.sources == ["upload", "microphone"]


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor more than may wait is told so, and an upload that is too large is refused."""
    monkeypatch.setattr(server, "MOST_WAITING", 1)
    monkeypatch.setattr(server, "MOST_BYTES", 100_000)
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> None:
        begun.set()
        go_on.wait(60)
        raise ap.AudioError("slow")

    monkeypatch.setattr(studio, "compare", slow)
    with served(small()) as address, ThreadPoolExecutor(2) as pool:
        client = PageClient(address)
        with pytest.raises(httpx.HTTPStatusError, match="413"):
            client.upload(b"a" * 200_000, "large.wav")
        payload = {"path": client.upload(b"a", "a.wav")}
        try:
            first = pool.submit(client.ask, payload, **SETTING)
            assert begun.wait(60)
            second = pool.submit(PageClient(address).ask, payload, **SETTING)
            for _ in range(600):
                if client.http.get(f"{API}/queue/status").json()["queue_size"]:
                    break
                time.sleep(0.1)
            third = client.ask(payload, **SETTING)
        finally:
            go_on.set()
        assert (third.status, "Queue is full" in third.message) == (503, True)
        assert "slow" in first.result().message
        assert "slow" in second.result().message


def test_the_end_comes_while_a_long_sound_is_heard() -> None:
    page = small()
    with served(page) as address, ThreadPoolExecutor(1) as pool:
        client = PageClient(address)
        heard = threading.Event()
        build, page._build = page._build, lambda *words: (heard.set(), build(*words))[1]
        waiting = pool.submit(client.hear, wav(tone(600.0)), "long.wav", **SETTING)
        assert heard.wait(60)
        page.end()
        assert "the page has ended" in waiting.result().message
        assert "the page has ended" in client.hear(wav(tone(1.2)), "next.wav", **SETTING).message


def test_turns_end() -> None:
    turn, inside, done = Turn(), threading.Event(), threading.Event()

    def work() -> None:
        with suppress(InterruptedError), turn:
            inside.set()
            while True:
                turn.check()
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    inside.wait()
    assert turn.end()
    worker.join(60)
    assert done.is_set()
    with pytest.raises(InterruptedError), turn:
        pass


def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.01)
    turn = Turn()
    with turn:
        assert not turn.end()
    assert turn.end()


def test_a_setting_is_fitted_to_a_model_once() -> None:
    built: list[tuple[str, float]] = []

    def build(name: str, rate: float, score: str | None, model: object) -> ap.Method:
        built.append((name, rate))
        if rate > 1:
            raise ValueError("no share")
        return ap.TopK(rate)

    page = small(build)
    ask = partial(page.compare, Path("none.wav"), "small", "topk")
    for rate, error in ((0.5, ap.AudioError), (0.5, ap.AudioError), (0.6, ap.AudioError), (2, ValueError)):
        with pytest.raises(error):
            ask(rate, None)
    with pytest.raises(ValueError, match="no share"):
        ask(2, None)
    assert built == [("topk", 0.5), ("topk", 0.6), ("topk", 2), ("topk", 2)], "an error is not kept"


def test_uploads_have_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "kept"))
    with server.upload_folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == folder
        assert Path(folder).parent == tmp_path / "kept"
        (Path(folder) / "upload.wav").write_bytes(b"a")
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    with server.upload_folder() as folder:
        assert Path(folder).name.startswith("audioprune-app-")
    assert not Path(folder).exists()
    assert "GRADIO_TEMP_DIR" not in os.environ
