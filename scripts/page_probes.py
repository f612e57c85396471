"""Requests for what visitors of the page must not get: files outside the folder of uploads, and other addresses."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from page_client import API, PageClient

UP = 12
"""Folders up, more than any path here is deep."""
STEPS = (
    "../",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%252f",
    "%252e%252e%252f",
    "..\\",
    "..%5c",
    "....//",
    "..;/",
    "%c0%ae%c0%ae/",
    "%u002e%u002e/",
)
"""Ways to write one folder up."""
ROUTES = (f"{API}/file=", f"{API}/file/", f"{API}/proxy=", "/static/", "/assets/", "/svelte/", "/")
"""Routes of Gradio that give files."""


def spellings(path: Path, folder: str) -> Iterator[str]:
    """Ways to name a file to the server in an address. folder: that of the uploads."""
    plain = str(path)
    yield from (
        plain,
        f"/{plain}",
        f"{plain}/",
        f"/.{plain}",
        f"file://{plain}",
        f"file:{plain}",
        f"file://localhost{plain}",
    )
    yield from (quote(plain, safe=""), quote(quote(plain, safe=""), safe=""), f"{plain}%00.ogg", f"{plain}%0a")
    yield from (f"/proc/self/root{plain}", f"/proc/self/cwd/..{plain}", f"~root/../..{plain}")
    for step in STEPS:
        yield step * UP + plain.lstrip("/")
        yield f"{folder}/{step * UP}{plain.lstrip('/')}"


def fetch(address: str, target: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of a request whose target is sent exactly as it is written."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    try:
        connection.request(method, target)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def leaks_of_routes(client: PageClient, files: list[Path], folder: str) -> tuple[int, list[str]]:
    """Number of the requests for files, and those that were not refused: status under 400, or with the content."""
    leaks, count = [], 0
    for path in files:
        content = path.read_bytes()[:40] if path.is_file() else b""
        for route in ROUTES:
            for name in spellings(path, folder):
                status, body = fetch(
                    client.address, (route + name).replace("//", "/") if route == "/" else route + name
                )
                count += 1
                if status < 400 or (content and content in body):
                    leaks.append(f"{route}{name}")
    return count, leaks


def leaks_of_payloads(client: PageClient, names: list[str]) -> tuple[int, list[str]]:
    """Number of the requests that name a file of the server or an address as if it were uploaded, and those that were
    not refused in the page's words."""
    leaks, count = [], 0
    for name in names:
        for payload in ({"path": name}, {"path": name, "url": name}, {"path": None, "url": name}, {"url": name}):
            answer = client.ask(payload)
            count += 1
            if answer.verdict or "Not allowed" not in answer.message:
                leaks.append(f"{payload}: {answer.message}")
    return count, leaks


def addresses(port: int) -> list[str]:
    """Addresses inside a network, which a server must not open for a visitor. port: of a listener on this machine."""
    hosts = ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]")
    inside = [f"http://{host}:{port}/secret.wav" for host in hosts]
    cloud = ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/meta-data/"]
    return [
        *inside,
        *cloud,
        "https://localhost/",
        "ftp://localhost/a.wav",
        "http://user@127.0.0.1/",
        "HTTP://LOCALHOST/",
    ]
