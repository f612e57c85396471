"""`audioprune doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from ..timing import Ratio
from . import options as o
from .console import out, progress

MARKS = {True: ("ok", "green"), False: ("–", "yellow"), None: ("", "")}


def doctor(as_json: o.JsonOption = False) -> None:
    """Look at this machine and this installation: what works, how fast, and what to install for the rest.

    Versions, devices, whether bfloat16 and packing are faster here (measured), which sounds can be decoded, what is
    missing for which command, and whether the shipped model hears a chainsaw in the clip of one. No network is asked.

        audioprune doctor

    Nothing is written. Exit code 1 where sounds cannot be tagged here.
    """
    from ..doctor import STEPS, examine
    from . import EXTRAS, NEEDED_BY

    o.quiet()
    with progress("checks", brief=True) as bar:
        task = bar.add_task("Looking", total=STEPS)
        found = examine(EXTRAS, lambda: bar.advance(task), NEEDED_BY)
    if as_json:
        print(json.dumps(found))
    else:
        table = Table.grid(padding=(0, 2))
        for mark, name, value in _lines(found):
            word, style = MARKS[mark]
            table.add_row(Text(word, style=style), Text(name, style="bold"), Text(value, overflow="fold"))
        out.print(table)
        out.print(Text.assemble(("Next: ", "bold"), found["next"]), soft_wrap=True)
    raise typer.Exit(0 if found["works"] else 1)


def _lines(found: dict[str, Any]) -> Iterator[tuple[bool | None, str, str]]:
    """Whether it is well (None where there is nothing to judge), what, and what was found."""
    installed = {name: version for name, version in found["versions"].items() if version is not None}
    yield None, "versions", ", ".join(f"{name} {version}" for name, version in installed.items())
    box = found["machine"]
    memory = "" if box["memory_bytes"] is None else f", {_gib(box['memory_bytes'])}"
    cores = f"{box['cores']} cores" + (
        f" ({box['usable_cores']} usable)" if box["usable_cores"] != box["cores"] else ""
    )
    threads = "1 thread" if box["threads"] == 1 else f"{box['threads']} threads"
    yield None, "machine", f"{box['system']}, {box['processor']}, {cores}, {threads}{memory}"
    instructions = " ".join(box["instructions"]) or "unknown"
    yield None, "processor", f"PyTorch uses {box['pytorch_kernels']} of: {instructions}"
    devices = [f"{one['name']}: {one['kind']}, {_gib(one['memory_bytes'])}" for one in box["devices"]]
    yield None, "devices", "; ".join(["cpu", *devices] if devices else ["cpu (PyTorch sees no CUDA device)"])
    yield from _speeds(found["speed"])
    kernels = found["kernels"]
    yield (
        kernels["works"] or None,
        "Triton kernels",
        "used on CUDA" if kernels["works"] else f"not used: {kernels['why']}",
    )
    decoded = found["sounds"]["decoded"]
    lacking = [name for name, can in decoded.items() if not can]
    without = f"; not {', '.join(lacking)}: pip install -U soundfile" if lacking else ""
    able = ", ".join(name for name, can in decoded.items() if can)
    yield not lacking, "sounds", f"{able} by libsndfile {found['sounds']['libsndfile']}{without}"
    ffmpeg = found["sounds"]["ffmpeg"]
    by = "not decoded: pip install 'audioprune[media]'" if ffmpeg is None else f"by FFmpeg {ffmpeg}"
    yield ffmpeg is not None, "other sounds", f"m4a, wma, webm, amr, ac3 …, and the sound of mp4, mov and mkv: {by}"
    hub = found["hub"]
    reach = "HF_HUB_OFFLINE is set: only models that are here" if hub["offline"] else "others are downloaded when named"
    yield None, "hub", f"{hub['models']} models in {hub['cache']}; {reach}"
    for name, extra in found["extras"].items():
        missing, commands = extra["missing"], ", ".join(extra.get("commands", ())) or f"the extra {name}"
        yield not missing, commands, f"lacks {', '.join(missing)}: {extra['remedy']}" if missing else "ready"
    yield found["works"], "shipped model", _answer(found["shipped_model"])


def _speeds(speeds: dict[str, dict[str, Any]]) -> Iterator[tuple[bool | None, str, str]]:
    for device, ratios in speeds.items():
        yield _speed(f"bfloat16, {device}", Ratio.of(ratios, "bfloat16"), "--dtype bfloat16", "--dtype float32")
        if device == "cpu" and "packed" in ratios:
            yield _speed("packing", Ratio.of(ratios, "packed"), "--pack", "--no-pack")
        elif device == "cpu":
            yield False, "packing", "this PyTorch has no oneDNN, by which weights are packed: --no-pack"


def _speed(name: str, ratio: Ratio, option: str, otherwise: str) -> tuple[bool | None, str, str]:
    from ..doctor import FAST

    if not ratio.is_sure:
        return None, name, f"{ratio} as fast as without: not sure, as this machine is busy; run doctor again"
    what = f"{option} pays" if ratio > FAST else f"no gain here, stay with {otherwise}"
    return ratio > FAST, name, f"{ratio} as fast as without: {what}"


def _answer(test: dict[str, Any]) -> str:
    if "error" in test:
        return f"fails on {test['clip']}: {test['error']}"
    answers = f"{test['unpruned']} unpruned, {test['pruned']} pruned"
    return f"hears {answers} in {test['clip']}, loaded and asked in {test['seconds']:.1f} s"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
