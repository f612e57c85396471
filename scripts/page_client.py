"""A client of the page of `audioprune app`, over plain HTTP like a browser, and requests that the page must refuse."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 3600.0
"""Seconds that an answer may take."""
API = "/gradio_api"


@dataclass(frozen=True)
class PageAnswer:
    """What the page shows for a sound.

    Args:
        status: HTTP status of the request, 200 if it was taken.
        seconds: from the upload to the answer.
        values: elem_id → value, of the components that change; empty if the page gives no answer.
        steps: windows that were heard, as the progress bar told.
    """

    status: int
    seconds: float
    values: dict[str, Any]
    steps: tuple[int, ...] = ()

    @property
    def message(self) -> str:
        return str(self.values.get("message") or "")

    @property
    def verdict(self) -> str:
        return str(self.values.get("verdict") or "")

    @property
    def labels(self) -> tuple[dict[str, float], ...]:
        """Label → confidence without and with pruning; empty if there is no answer."""
        sides = (self.values.get("unpruned"), self.values.get("pruned"))
        return tuple({one["label"]: one["confidence"] for one in side["confidences"]} for side in sides if side)


class PageClient:
    """A visitor of the page.

    address: as the command prints it. Raises `httpx.HTTPError` if nobody answers there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.http = httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False)
        config = self.http.get("/config").raise_for_status().json()
        self._names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self._defaults = {part["id"]: part["props"].get("value") for part in config["components"]}
        self._call = next(call for call in config["dependencies"] if call["api_name"] == "update")

    def upload(self, sound: bytes | Path, name: str) -> str:
        """Upload a sound under a name. Returns its path on the server. Raises `httpx.HTTPStatusError` if refused."""
        if isinstance(sound, Path):
            with sound.open("rb") as file:
                reply = self.http.post(f"{API}/upload", files={"files": (name, file)})
        else:
            reply = self.http.post(f"{API}/upload", files={"files": (name, sound)})
        return str(reply.raise_for_status().json()[0])

    def hear(self, sound: bytes | Path, name: str, **settings: Any) -> PageAnswer:
        """Upload a sound and wait for the answer. settings: as of `ask`."""
        began = time.perf_counter()
        return self.ask({"path": self.upload(sound, name)}, began=began, **settings)

    def ask(self, payload: dict[str, Any], *, began: float | None = None, **settings: Any) -> PageAnswer:
        """Ask for the answer to a payload that names a sound, with settings by their elem_id."""
        began = time.perf_counter() if began is None else began
        session = secrets.token_hex(8)
        sound = {"meta": {"_type": "gradio.FileData"}, "orig_name": "sound.wav", **payload}
        data = [self._value(part, settings | {"sound": sound}) for part in self._call["inputs"]]
        wanted = {"data": data, "fn_index": self._call["id"], "session_hash": session, "event_data": None}
        reply = self.http.post(f"{API}/queue/join", json=wanted)
        if reply.is_error:
            return PageAnswer(reply.status_code, time.perf_counter() - began, {"message": reply.text})
        steps: list[int] = []
        values: dict[str, Any] = {}
        for said in self._events(session):
            if said["msg"] == "progress":
                steps += [one["index"] for one in said["progress_data"] if one["index"] is not None]
            if said["msg"] == "process_completed":
                values = self._shown(said["output"])
        return PageAnswer(reply.status_code, time.perf_counter() - began, values, tuple(dict.fromkeys(steps)))

    def _value(self, part: int, settings: dict[str, Any]) -> Any:
        name = self._names[part]
        return settings[name] if name in settings else self._defaults[part]

    def _events(self, session: str) -> Iterator[dict[str, Any]]:
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    said = json.loads(line[5:])
                    yield said
                    if said["msg"] in ("close_stream", "unexpected_error"):
                        return

    def _shown(self, output: dict[str, Any]) -> dict[str, Any]:
        if "data" not in output:
            return {"message": output.get("error")}
        pairs = zip(self._call["outputs"], output["data"], strict=True)
        return {self._names[part]: _value(one) for part, one in pairs}


def _value(shown: Any) -> Any:
    """New value of a component; None if it stays as it is."""
    if isinstance(shown, dict) and (shown.get("__type__") == "update"):
        return shown.get("value")
    return shown
