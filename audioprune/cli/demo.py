"""`audioprune demo`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..timing import Ratio, unsure_note
from . import options as o
from .console import compact_table, err, out, progress

if TYPE_CHECKING:
    from ..methods import Method

CLIPS = Path(__file__).parent.parent / "assets" / "clips"


def demo(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("audioprune-demo"),
    keep_rate: Annotated[
        float, typer.Option(help="Share of tokens that stays at each of TopK's three layers, in (0, 1].")
    ] = 0.5,
    as_json: o.JsonOption = False,
) -> None:
    """Tag the example clips that ship with audioprune, unpruned and pruned, and draw what was kept.

        audioprune demo --out pictures/

    The clips are synthesised; the model (an AudioMAE of 2.4 million parameters) was trained on ESC-10. Two pictures are
    written. It takes some twenty seconds and no network.
    """
    from ..compare.benchmark import machine, measure
    from ..core.recommend import recommended
    from ..methods import TopK
    from ..tagging.tagger import Tagger

    folder.mkdir(parents=True, exist_ok=True)
    model, front = o.open_spectrogram_model("esc10", "cpu")
    tagger = Tagger(model, front, top=1)
    clips = sorted(CLIPS.glob("*.ogg"))
    methods: dict[str, Method] = {
        "unpruned": TopK(1.0),
        f"TopK {keep_rate:g}": TopK(keep_rate),
        "recommended ½": recommended(model),
        "recommended ¼": recommended(model, macs=0.25),
    }
    results: list[dict[str, Any]] = []
    with progress("steps") as bar:
        task = bar.add_task("Tagging and measuring", total=2 * len(methods))
        for name, method in methods.items():
            results.append({"name": name, **_tag(tagger, clips, method)})
            bar.advance(task)
        costs = measure(model, list(methods.values()), batch_size=4, seconds=1.0, advance=lambda: bar.advance(task))
    for result, cost in zip(results, costs, strict=True):
        result["cost"] = cost
    pictures = _pictures(tagger, clips[0], folder, dict(list(methods.items())[1:3]))
    if as_json:
        print(json.dumps({"results": results, "pictures": list(map(str, pictures)), "machine": machine()}))
        return
    out.print(_labels(clips, results))
    out.print(_costs(results))
    for picture in pictures:
        out.print(f"What was kept of {clips[0].name}: {picture}", soft_wrap=True)
    err.print(f"{machine()['processor']}, threads: {machine()['threads']}", style="dim")


def _tag(tagger: Any, clips: list[Path], method: Method) -> dict[str, Any]:
    from ..core.pruning import prune

    with prune(tagger.model, method) as handle:
        began = time.perf_counter()
        rows = list(tagger(clips))
        return {"tokens": list(handle.tokens), "seconds": time.perf_counter() - began, "rows": rows}


def _pictures(tagger: Any, clip: Path, folder: Path, methods: dict[str, Method]) -> list[Path]:
    from ..core.pruning import prune
    from .explain import draw

    paths = []
    for name, method in methods.items():
        target = folder / f"{clip.stem}-{name.split(',')[0].split(' ')[0].lower()}.png"
        with prune(tagger.model, method):
            draw(tagger, clip, target, f"{clip.name} · {name}")
        paths.append(target)
    return paths


def _labels(clips: list[Path], results: list[dict[str, Any]]) -> Table:
    table = compact_table("What the model hears (label, probability)")
    table.add_column("clip")
    for result in results:
        table.add_column(result["name"])
    for i, clip in enumerate(clips):
        answers = [result["rows"][i]["labels"][0] for result in results]
        table.add_row(clip.name, *(f"{a['label']} {a['score']:.2f}" for a in answers))
    return table


def _costs(results: list[dict[str, Any]]) -> Table:
    note = unsure_note([Ratio.of(result["cost"]) for result in results])
    table = compact_table("What it costs", "MMACs: of a clip; ms: of a batch of 4 here; faster: than unpruned", note)
    for column in ("", "tokens per stage", "MMACs", "saved", "ms", "faster"):
        table.add_column(column, justify="left" if not column else "right")
    for result in results:
        cost = result["cost"]
        table.add_row(
            result["name"],
            _counts(list(dict.fromkeys(result["tokens"]))),
            f"{cost['macs'] / 1e6:.0f}",
            f"{1 - 1 / cost['macs_ratio']:.0%}",
            f"{cost['latency_ms']:.1f}",
            str(Ratio.of(cost)),
        )
    return table


def _counts(tokens: list[int]) -> str:
    """Tokens after each stage; of many stages the first and the last."""
    return " → ".join(map(str, tokens if len(tokens) < 5 else [tokens[0], tokens[1], "…", tokens[-1]]))
