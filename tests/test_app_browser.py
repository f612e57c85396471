"""The page of `audioprune app` in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from .conftest import tone
from .media import FORMATS, encode
from .transcribers import save

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

GUARDED = """
import signal
import sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell begin deaf to it

def guard(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in (None, "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
        print("ABROAD", host, file=sys.stderr, flush=True)
        raise OSError(f"{host} is not this machine")

sys.addaudithook(guard)
from audioprune.cli import main
main()
"""
"""The command line in a process that cannot reach other machines, and says when it tried."""
TOASTS = """
window.toasts = [];
new MutationObserver(() => document.querySelectorAll(".toast-body").forEach(toast => toasts.push(toast.innerText)))
  .observe(document, {childList: true, subtree: true});
"""
"""Notes what Gradio itself has to say: the page has its own words for all that may go wrong."""
INSIDE = """
[...document.querySelectorAll(".ap-bars *")].every(one => one.getBoundingClientRect().right <= window.innerWidth)
"""
"""Whether the bars end on the page: what hides its overflow does not widen the document."""
PATIENCE = 60_000
"""Milliseconds."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of the page, served by a process of its own; afterwards it is ended as by Ctrl-C."""
    pytest.importorskip("gradio", reason="gradio is not here: pip install 'audioprune[app]'")
    kept = tmp_path / "kept"
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {"GRADIO_TEMP_DIR": str(kept)}
    whisper = save(tmp_path / "whisper", multilingual=False)
    words = [sys.executable, "-c", GUARDED, "app", "--port", "0", "--whisper", whisper]
    with (
        open(tmp_path / "errors.txt", "w") as errors,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            found = process.stdout.readline().strip()
            assert found.startswith("http://127.0.0.1:"), (tmp_path / "errors.txt").read_text()
            yield found
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
    said = (tmp_path / "errors.txt").read_text()
    assert "Stopped." in said
    assert "ABROAD" not in said
    assert "Traceback" not in said
    assert not [path for path in kept.rglob("*") if path.is_file()], "what was uploaded is gone"


class Visitor:
    """Somebody with a browser. Whatever leaves this machine is stopped and noted."""

    def __init__(self, browser: Any, address: str, shots: Path) -> None:
        self.address, self.shots = address, shots
        self.abroad: list[str] = []
        self.complaints: list[str] = []
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(PATIENCE)
        context.route("**/*", self._pass)
        self.page = context.new_page()
        self.page.add_init_script(TOASTS)
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#examples")

    def _pass(self, route: Any) -> None:
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.abroad.append(route.request.url)
            route.abort()

    def upload(self, path: Path) -> None:
        clear = self.page.locator("#sound button[aria-label=Clear]")
        if clear.count():
            clear.click()
        self.page.locator("#sound input[type=file]").set_input_files(str(path))

    def choose(self, box: str, option: str) -> None:
        self.page.locator(f"{box} input").click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def shoot(self, name: str) -> None:
        """Look, through a phone, a narrow window and a wide one: nothing may be cut off."""
        for width in (390, 700, 1400):
            self.page.set_viewport_size({"width": width, "height": 1000})
            assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (name, width)
            assert self.page.evaluate(INSIDE), (name, width)
            self.page.screenshot(path=self.shots / f"{name}-{width}.png", full_page=True)


@pytest.fixture
def visitor(address: str, tmp_path: Path) -> Iterator[Visitor]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not here")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        # The sandbox does not start for root, as whom containers run.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Visitor(browser, address, tmp_path)
        browser.close()


def sounds(folder: Path) -> dict[str, Path]:
    t = np.arange(5 * 16_000) / 16_000
    chirps = 0.3 * np.sin(2 * np.pi * (400 + 300 * (t % 1)) * t) * (t % 1 < 0.6)
    soundfile.write(folder / "chirps.wav", chirps.astype(np.float32), 16_000)
    soundfile.write(folder / "long.wav", tone(180.0), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(5 * 16_000, np.float32), 16_000)
    (folder / "corrupt.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt nonsense")
    return {path.stem: path for path in folder.glob("*.wav")}


def test_the_page(visitor: Visitor, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    page, files = visitor.page, sounds(tmp_path)
    verdict, message, picture = (page.locator(name) for name in ("#verdict", "#message", "#picture"))
    image = picture.locator("img")
    known = r"baby_cry|chainsaw|clock_tick|dog_bark|fire_crackling|helicopter|person_sneeze|rain|rooster|sea_waves"

    visitor.upload(files["chirps"])
    expect(verdict).to_contain_text("chirps.wav · esc10 · ToMe")
    heard = verdict.inner_text()
    for side in ("#unpruned", "#pruned"):
        shown = page.locator(side).inner_text()
        assert "%" in shown
        assert any(label in shown for label in known.split("|"))
    assert heard.startswith(("Both hear", "They differ"))
    expect(page.locator("#bars")).to_contain_text("ms")
    expect(message).to_be_hidden()
    visitor.shoot("answered")

    # The stages: no answer is computed anew, and each looks different.
    expect(picture).to_contain_text("After the attention of block 8")
    seen = [image.get_attribute("src")]
    slider = page.locator("#stage input[type=range]")
    slider.press("ArrowLeft")
    expect(picture).to_contain_text("After the attention of block 6")
    seen.append(image.get_attribute("src"))
    slider.press("Home")
    expect(picture).to_contain_text("The whole input: 256 patches")
    seen.append(image.get_attribute("src"))
    assert len(set(seen)) == 3

    # A keep rate, another method, its score.
    rate = page.locator("#keep-rate input[type=number]")
    rate.fill("0.6")
    rate.press("Enter")
    expect(verdict).to_contain_text("ToMe(0.6,")
    rate.fill("0.2")
    rate.press("Enter")
    expect(message).to_contain_text("keep_rate is 0.2, but ToMe merges pairs")
    rate.fill("50")
    rate.press("Enter")
    expect(message).to_contain_text("keep_rate is 50.0; it is the share of tokens that stay")
    rate.fill("0.6")
    rate.press("Enter")
    expect(message).to_be_hidden()
    visitor.choose("#method", "TopK")
    expect(verdict).to_contain_text("TopK(0.6)")
    visitor.choose("#score", "intensity")
    expect(verdict).to_contain_text("score='intensity'")
    slider.press("End")
    expect(picture).to_contain_text("56 of 256 patches kept")
    assert not visitor.complaints

    # What cannot be heard: said, and the answer before stays.
    visitor.upload(files["corrupt"])
    expect(message).to_contain_text("corrupt.wav: cannot be decoded as audio")
    expect(message).to_contain_text("still the answer to chirps.wav")
    expect(verdict).to_contain_text("chirps.wav")
    assert str(tmp_path) not in page.locator("body").inner_text()
    visitor.shoot("corrupt")
    # The browser's own player could not decode it either.
    assert all("Waveform load error" in said for said in visitor.complaints)
    visitor.complaints.clear()

    visitor.upload(files["long"])
    expect(message).to_contain_text("Heard whole: 180.0 s in 70 windows")
    expect(page.locator("#timeline img")).to_be_visible()
    expect(verdict).to_contain_text("long.wav")
    visitor.shoot("long")
    visitor.upload(files["silence"])
    expect(message).to_contain_text("This sound is silent")
    expect(verdict).to_contain_text("silence.wav")
    visitor.shoot("silence")

    if find_spec("av"):
        kind = FORMATS["mp4"]
        video = encode(tmp_path / "video.mp4", tone(1.2, kind.rate), kind)
        with page.expect_file_chooser() as chooser:
            page.locator("#sound-video").click()
        chooser.value.set_files(video)
        expect(verdict).to_contain_text("video.mp4 · ")
        visitor.shoot("video")

    model = page.locator("#model input")
    model.fill("listener")
    model.press("Enter")
    expect(message).to_contain_text("audioprune ask")

    page.get_by_role("button", name="rain", exact=True).click()
    page.locator("#model input").fill("esc10")
    page.locator("#model input").press("Enter")
    expect(verdict).to_contain_text("rain.ogg")

    visitor.shoot("example")

    # Speech: both transcripts and both times.
    page.get_by_role("tab", name="Speech").click()
    transcripts = page.locator("#transcripts")
    expect(transcripts).to_contain_text("Record some speech or upload a sound")
    page.locator("#speech input[type=file]").set_input_files(str(files["chirps"]))
    expect(transcripts).to_contain_text("With pruning")
    expect(transcripts).to_contain_text("chirps.wav · ")
    expect(transcripts).to_contain_text("PaddingMerge(0.04)")
    visitor.shoot("speech")
    page.locator("#speech button[aria-label=Clear]").click()
    page.locator("#speech input[type=file]").set_input_files(str(files["silence"]))
    expect(page.locator("#speech-message")).to_contain_text("silence.wav: silent")
    visitor.shoot("speech-silent")
    assert not visitor.complaints
    assert not page.evaluate("window.toasts")
    assert not visitor.abroad
