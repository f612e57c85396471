"""`audioprune analyze`: what pruning keeps and why it matters, on one's own sounds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from . import training_options as t
from .console import err, out, progress, warnings_as_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..analysis.run import Analysis, Chapter
    from ..data import ClipRow

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help='"esc10", a folder, a weight file or a hub id: one model at all keep rates; or RATE=MODEL, repeatable, '
        "the model that was fine-tuned for each, with 1.0=MODEL for the unpruned one. [default: esc10]",
        show_default=False,
    ),
]


def analyze(
    data: t.DataOption,
    out_folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for answers.json, report and state.")],
    model: ModelsOption = None,
    data_name: t.DataNameOption = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to hear, with commas: those that the model was not trained on.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Part to hear: test, validation, train or all. [default: test; all of a plain folder of classes]",
            show_default=False,
        ),
    ] = None,
    keep_rates: Annotated[
        str | None,
        typer.Option(
            help="Keep rates, with commas; 1.0 is added. [default: 0.9,0.7,0.5, or those of --model RATE=MODEL]",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="What ranks tokens: attention or cls. [default: cls for an AST that answers by its CLS token, else "
            "attention]",
            show_default=False,
        ),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(
            help="A patch is signal where its mean is above this. [default: from the sounds' histogram]",
            show_default=False,
        ),
    ] = None,
    limit: t.LimitOption = None,
    skip: Annotated[
        str | None,
        typer.Option(
            help="Questions to leave out, with commas, of those that need forwards of their own: tradeoff, ranking, "
            "perturbation, cluster_drop."
        ),
    ] = None,
    clips: Annotated[
        str | None, typer.Option(help="Clips to draw, with commas: file names, or numbers from 0 among those heard.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Clips to draw at random, beside those of --clips.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the clips that are drawn at random.")] = 0,
    bench_seconds: Annotated[float, typer.Option(min=0, help="Seconds of timing a keep rate; 0 times nothing.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per forward.")] = 16,
    device: o.DeviceOption = "auto",
    cache: t.CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Ask the papers' questions of a model and labelled sounds: what is kept, and does it matter?

    One model, pruned at three keep rates without fine-tuning for them:

        audioprune analyze --model esc10 --data ESC-50 --data-name esc10 --folds 5 --out analysis/

    Models that were fine-tuned for their keep rates:

        audioprune analyze --model 1.0=runs/rate1.0 --model 0.7=runs/rate0.7 --model 0.5=runs/rate0.5 --data my-sounds/
        --out analysis/

    Signal patches are those that are louder than a threshold. Answered are how many of them are kept, who gets the
    attention, how blocks change, whether rankings agree, which loudness stays; then tokens are swapped (tests I to
    III), clusters of loudness are removed, and rankings by loudness and chance are tried. Interrupt it as you like: the
    same command goes on.

    Of an audio-language model, whose tokens are moments and no patches, the report is pictures: what segmentwise Top-K
    leaves of --clips and --pictures.
    """
    from ..analysis import models
    from ..analysis.run import ANSWERS, Analysis, Settings, write_answers
    from ..compare import settings as c
    from ..files import check_writable
    from ..locks import alone
    from ..models.loading import is_language_model

    if split not in (None, "test", "validation", "train", "all"):
        raise ValueError(f"--split is {split!r}; it is test, validation, train or all")
    settings = Settings(tau, t.words(skip), batch_size, bench_seconds=bench_seconds)
    rates: list[float] | None = o.parse_numbers(keep_rates, float, "--keep-rates") if keep_rates else None
    check_writable(out_folder / ANSWERS)
    if model is not None and len(model) == 1 and is_language_model(model[0]):
        table, _ = t.open_data(data, data_name, None, cache)
        rows = c.spaced(c.choose_clips(table, t.words(folds), split), limit)
        drawn = _drawn(rows, clips, pictures, seed)
        _draw_moments(model[0], table.name, [rows[i] for i in drawn], rates or [0.5, 0.25], out_folder, device)
        return
    sources, tuned = models.parse_models(model or ["esc10"], rates)
    opened = models.open_models(sources, score, lambda source: o.open_spectrogram_model(source, device), tuned)
    table, store = t.open_data(data, data_name, None, cache)
    rows = c.spaced(c.choose_clips(table, t.words(folds), split), limit)
    analysed = models.with_labels(opened, table.multi_label)
    labels = c.targets_of(analysed.by_rate[1.0], table, rows)
    drawn = _drawn(rows, clips, pictures, seed)
    identity = {"name": table.name, "clips": len(rows), "files": models.clips_fingerprint(rows)}
    heard = c.ReadClips(rows, analysed.front, store)
    with alone(out_folder):
        with warnings_as_notes():
            analysis = Analysis(analysed, heard, labels, out_folder, settings, identity)
        with progress("clips") as bar:
            first = bar.add_task("Surveying", total=len(rows))
            second = bar.add_task("Hearing", total=len(rows))
            chapters = analysis.run(lambda n: bar.advance(first, n), lambda n: bar.advance(second, n))
        about = _about(analysis, rows, table.name) | {"folds": list(t.words(folds)), "split": split, "limit": limit}
        answers = write_answers(out_folder, chapters, about)
        err.print(f"→ {answers}", soft_wrap=True)
        # What was found is saved before anything of the report can go wrong.
        from ..analysis import report

        page = report.write(out_folder, chapters, about, _pictures(analysis, rows, drawn))
        err.print(f"→ {page}", soft_wrap=True)
        if as_json:
            print(answers.read_text(), end="")
        else:
            _print(chapters)


def _draw_moments(
    source: str, data: str, rows: Sequence[ClipRow], rates: Sequence[float], out_folder: Path, device: str
) -> None:
    """A report of pictures, of an audio-language model."""
    from ..analysis import report
    from ..analysis.pictures import moments
    from ..compare.benchmark import machine
    from ..methods import SegmentwiseTopK

    pruning = [SegmentwiseTopK(rate) for rate in sorted(set(rates) - {1.0}, reverse=True)]
    loaded, processor = o.open_lm(source, device)
    found = []
    with progress("pictures") as bar:
        task = bar.add_task("Drawing", total=len(rows) * len(pruning))
        for row in rows:
            for method in pruning:
                title = f"{row.path.name}: {', '.join(row.labels)} · {method}"
                found.append((title, moments(loaded, processor, row.path, method, title)))
                bar.advance(task)
    about: dict[str, Any] = {
        "command": t.command(),
        "models": {"all": source},
        "tuned": False,
        "data": data,
        "clips": len(rows),
    }
    about["pictures_how"] = "The moments that the language model reads are shaded, and clear in the spectrogram."
    about |= {"keep_rates": [method.keep_rate for method in pruning], "machine": machine()}
    err.print(f"→ {report.write(out_folder, [], about, found)}", soft_wrap=True)


def _about(analysis: Analysis, rows: Sequence[ClipRow], data: str) -> dict[str, Any]:
    """What the report says of the run itself."""
    from ..compare.benchmark import machine

    models = analysis.models
    return {
        "command": t.command(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "models": {str(rate): source for rate, source in models.sources.items()},
        "tuned": models.tuned,
        "how": models.how,
        "data": data,
        "clips": len(rows),
        "keep_rates": [1.0, *models.keep_rates],
        "score": models.score,
        "tau": analysis.tau,
        "tau_given": analysis.settings.tau is not None,
        "boundaries": [float(edge) for edge in analysis.survey.by_intensity.boundaries],
        "metric": "mAP" if models.multi_label else "accuracy",
        "skipped": list(analysis.settings.skip),
        "machine": machine(),
    }


def _pictures(analysis: Analysis, rows: Sequence[ClipRow], drawn: Sequence[int]) -> list[tuple[str, Figure]]:
    """Name and picture of the drawn clips at each keep rate."""
    import torch

    from ..analysis.pictures import picture

    if not drawn:
        return []
    chosen, labels = analysis.models, [f"{rows[i].path.name}: {', '.join(rows[i].labels)}" for i in drawn]
    log_mel = torch.stack([analysis.clips[i] for i in drawn])
    found = []
    for rate in chosen.keep_rates:
        name = f"keep rate {rate:g}"
        pruned, unpruned = chosen.by_rate[rate], chosen.by_rate[1.0]
        figure = picture(pruned, log_mel, chosen.methods[rate], name, labels, unpruned=unpruned)
        found.append((name, figure))
    return found


def _drawn(rows: Sequence[ClipRow], clips: str | None, count: int, seed: int) -> list[int]:
    """Numbers of the clips to draw: those that were named, and then so many others at random."""
    found = list(dict.fromkeys(_number(rows, word) for word in t.words(clips)))
    others = [i for i in range(len(rows)) if i not in found]
    return found + sorted(random.Random(seed).sample(others, min(count, len(others))))


def _number(rows: Sequence[ClipRow], word: str) -> int:
    for i, row in enumerate(rows):
        if word in (row.path.name, str(row.path)):
            return i
    if word.isdigit() and int(word) < len(rows):
        return int(word)
    raise ValueError(
        f"--clips names {word!r}, which is neither a file among the {len(rows)} clips that are heard nor a number from "
        f"0 to {len(rows) - 1}"
    )


def _print(chapters: Sequence[Chapter]) -> None:
    for question, answer in chapters:
        out.print(question.title, style="bold")
        for sentence in (*answer.found, *filter(None, [answer.note])):
            out.print(f"  {sentence}", soft_wrap=True)
