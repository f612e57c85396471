"""Put load on the page of `audioprune app`: many visitors at once, visitors who must be refused, and hours of sound.

    python scripts/page_load.py --out results/page-load.json

Each case has a server of its own, with the model esc10 on the CPU. Visitors use plain HTTP, like a browser. Seconds are
from the upload to the answer, with all that waits before it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import signal
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audioprune.audio.files import SAMPLE_RATE
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from long_sounds import CLIPS, write_sound
from page_client import API, PageAnswer, PageClient
from page_probes import addresses, fetch, leaks_of_payloads, leaks_of_routes

# Background jobs of a shell begin deaf to Ctrl-C.
HEARING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from audioprune.cli import main
main()
"""
COMMAND = [sys.executable, "-c", HEARING, "app", "--port", "0", "--device", "cpu"]
SETTLED = 5.0
"""Seconds after which a long sound is being computed."""


@contextmanager
def served(measured: dict[str, Any]) -> Iterator[str]:
    """The page's address, served by a process of its own. When it ends, as by Ctrl-C, how it ended is put down."""
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryFile("w+") as errors:
        environment = os.environ | {"GRADIO_TEMP_DIR": kept}
        process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
            began = time.perf_counter()
            process.send_signal(signal.SIGINT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
        errors.seek(0)
        measured |= {
            "peak_megabytes": round(usage.ru_maxrss / 1024),
            "seconds_to_stop": round(time.perf_counter() - began, 1),
            "exit_code": process.returncode,
            "files_left": sum(path.is_file() for path in Path(kept).rglob("*")),
            "tracebacks": errors.read().count("Traceback"),
        }


def one_visitor() -> tuple[dict[str, Any], dict[str, PageAnswer]]:
    """The example clips one after another, and the answers."""
    measured: dict[str, Any] = {}
    with served(measured) as address:
        client = PageClient(address)
        answers = {clip.name: client.hear(clip, clip.name) for clip in sorted(CLIPS.glob("*.ogg"))}
    first, *others = [answer.seconds for answer in answers.values()]
    return {
        "clips": len(answers),
        "first_seconds": round(first, 2),
        "median_seconds_of_others": round(statistics.median(others), 2),
        **measured,
    }, answers


def crowd(visitors: int, alone: dict[str, PageAnswer]) -> dict[str, Any]:
    """Visitors who upload at the same moment, each an example clip under a name of its own."""
    measured: dict[str, Any] = {}
    clips = sorted(CLIPS.glob("*.ogg"))
    together = threading.Barrier(visitors)

    def visit(number: int) -> tuple[PageAnswer, bool]:
        clip, client = clips[number % len(clips)], PageClient(address)
        name = f"{clip.stem}-{number}.ogg"
        together.wait()
        answer = client.hear(clip, name)
        return answer, f">{name} · " in answer.verdict and answer.labels == alone[clip.name].labels

    with served(measured) as address, ThreadPoolExecutor(visitors) as pool:
        visits = list(pool.map(visit, range(visitors)))
    seconds = sorted(answer.seconds for answer, _ in visits)
    return {
        "visitors": visitors,
        "answered": sum(bool(answer.verdict) for answer, _ in visits),
        "with_the_answer_to_their_own_clip": sum(is_own for _, is_own in visits),
        "seconds": [round(each, 2) for each in seconds],
        "median_seconds": round(statistics.median(seconds), 2),
        **measured,
    }


def strangers() -> dict[str, Any]:
    """Visitors who ask for files outside the folder of uploads, for uploads of others, and for addresses."""
    measured: dict[str, Any] = {}
    with served(measured) as address, tempfile.TemporaryDirectory() as outside, listener() as (port, heard):
        client = PageClient(address)
        clip = CLIPS / "rain.ogg"
        own = client.upload(clip, "own.ogg")
        served_own = fetch(address, f"{API}/file={own}") == (200, clip.read_bytes())
        folder = Path(own).parent.parent
        secret = Path(outside) / "secret.wav"
        secret.write_text(secrets.token_hex(100))
        (folder / "link.wav").symlink_to(secret)  # as if somebody had put it there
        files = [Path("/etc/passwd"), Path(__file__), secret]
        guesses = guessed(folder, clip.read_bytes(), "own.ogg")
        routes, leaks = leaks_of_routes(client, [*files, folder / "link.wav", *guesses], str(folder))
        names = [*map(str, [*files, folder / "link.wav", *guesses]), *addresses(port)]
        payloads, more = leaks_of_payloads(client, names)
    return {
        "own_upload_is_served": served_own,
        "requests_for_files": routes,
        "requests_that_name_a_file_or_an_address_as_the_upload": payloads,
        "requests_that_the_server_sent": len(heard),
        "not_refused": leaks + more,
        **measured,
    }


def guessed(folder: Path, content: bytes, name: str) -> list[Path]:
    """Where a stranger who knows the name and the content of an upload would look for it."""
    digests = [hashlib.sha256(content).hexdigest(), hashlib.sha1(content).hexdigest(), "0" * 64, "*", "."]
    return [folder, folder / name, *(folder / digest / name for digest in digests)]


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what arrives there."""
    heard: list[bytes] = []

    class Note(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            heard.append(self.request.recv(100))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Note) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], heard
        server.shutdown()


def long_sound(minutes: float) -> dict[str, Any]:
    """Hours of sound, and then a file that is no sound."""
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "long.flac"
        write_sound(sound, minutes, SAMPLE_RATE, 1)
        size = sound.stat().st_size
        with served(measured) as address:
            client = PageClient(address)
            answer = client.hear(sound, sound.name)
            broken = client.hear(b"no sound" * 1000, "broken.wav")
    return {
        "minutes": minutes,
        "upload_megabytes": round(size / 1e6),
        "is_answered": "long.flac" in answer.verdict and "Heard whole" in answer.message,
        "seconds": round(answer.seconds, 1),
        "steps_of_progress": len(answer.steps),
        "no_sound": {"seconds": round(broken.seconds, 2), "is_refused": "cannot be decoded" in broken.message},
        **measured,
    }


def interrupted(minutes: float = 20.0) -> dict[str, Any]:
    """How the server ends by Ctrl-C while it computes."""
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        sound = Path(folder) / "long.flac"
        write_sound(sound, minutes, SAMPLE_RATE, 1)
        with served(measured) as address:
            client = PageClient(address)
            client.hear(CLIPS / "rain.ogg", "rain.ogg")
            waiting = pool.submit(client.hear, sound, sound.name)
            time.sleep(SETTLED)
            is_busy = not waiting.done()
        is_answered = waiting.exception() is None and bool(waiting.result().verdict)
    return {"was_busy": is_busy, "is_answered": is_answered, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=120.0)
    asked = parser.parse_args()
    alone, answers = one_visitor()
    found = {"one_visitor": alone}
    print("one_visitor", alone, flush=True)
    cases: dict[str, Callable[[], dict[str, Any]]] = {
        "crowd": lambda: crowd(asked.visitors, answers),
        "strangers": strangers,
        "interrupted": interrupted,
        "long": lambda: long_sound(asked.minutes),
    }
    for name, measure in cases.items():
        found[name] = measure()
        print(name, found[name], flush=True)
    command = f"python scripts/page_load.py --out {asked.out} --visitors {asked.visitors} --minutes {asked.minutes:g}"
    write_json(asked.out, {"command": command, "machine": machine(), "model": "esc10, recommended", **found})


if __name__ == "__main__":
    main()
