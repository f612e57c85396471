"""`audioprune eval-lm`: audio-language models on the papers' benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o
from .console import compact_table, err, out, progress


def eval_lm(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help='An audio-language model: a folder in transformers\' format, "listener" (shipped), or a hub id: '
            "Qwen/Qwen2-Audio-7B-Instruct.",
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Folder of the benchmark as it was unpacked, or its list within.")
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for answers and table. Run again to finish what is missing.")
    ],
    benchmark: Annotated[
        str, typer.Option(help="clotho, audiocaps, clothoaqa or mmau; auto: by its list's name.")
    ] = "auto",
    methods: Annotated[
        str,
        typer.Option(
            help="With commas: segmentwise, topk, visionzip, evs, atome, fastadasp, divprune, dpp, random, uniform, "
            "pooling …; each as NAME+merge to merge what it drops, where it can; JSON files."
        ),
    ] = "segmentwise,topk",
    keep_rates: Annotated[
        str, typer.Option(help="Shares of the audio tokens that stay, with commas; 1.0, the unpruned model, is added.")
    ] = "1.0,0.5,0.25",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Ask only so many items, at even distances. [default: all]", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sounds per forward.")] = 1,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What is asked: {question} and {choices} stand for the item's. With the model's own audio token in it "
            "it is the whole prompt, without the chat template. [default: the benchmark's]",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer, in tokens. [default: 16 for clothoaqa, else 64]", show_default=False),
    ] = None,
    device: o.DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: as the model was saved.")] = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Compare pruning methods on an audio-language model by the papers' benchmarks: CIDEr or accuracy, relative loss.

        audioprune eval-lm --model Qwen/Qwen2-Audio-7B-Instruct --data clotho/ --keep-rates 0.5,0.25 --out runs/clotho

    Answers are written as they come: a run that is killed goes on where it stopped when it is started again. A sound
    that cannot be decoded gets a row with its error, stops nobody, and makes the exit code 1. The table is in the
    folder, as table.json and table.md.
    """
    from ..files import check_writable
    from ..lm import prompts
    from ..lm.batch_generate import BatchGenerator
    from ..lm.benchmarks import read
    from ..lm.evaluate import Evaluation
    from ..lm.loading import sampling_rate
    from ..lm.metrics import require
    from ..lm.settings import settings

    rates: list[float] = o.parse_numbers(keep_rates, float, "--keep-rates")
    chosen = settings([name.strip() for name in methods.split(",") if name.strip()], rates)
    items = read(data, None if benchmark == "auto" else benchmark).limited(limit)
    question = prompts.PROMPTS[items.name] if prompt is None else prompt
    prompts.check_prompt(items.name, question)
    require(items.name)
    check_writable(out_folder / "table.json")
    loaded, processor = o.open_lm(model, device, dtype)
    if sampling_rate(processor) != 16_000:
        err.print(
            f"{type(processor).__name__} listens at {sampling_rate(processor):,} Hz: sounds are resampled to that"
        )
    longest = max_new_tokens or prompts.MAX_NEW_TOKENS[items.name]
    generator = BatchGenerator(loaded, processor, question, longest, batch_size)
    # By name, since a folder may be moved as a whole; the weights are looked at as well.
    name = Path(model).resolve().name if Path(model).exists() else model
    evaluation = Evaluation(generator, items, name, out_folder)
    err.print(f"{items.name}: {len(items):,} items, {len(chosen)} settings")
    with progress("answers") as bar:
        task = bar.add_task("Asking", total=len(items) * len(chosen))
        result = evaluation.run(
            chosen,
            lambda count: bar.advance(task, count),
            lambda setting: bar.update(task, description=setting.file),
        )
    _show(result, as_json)
    err.print(f"→ {out_folder / 'table.json'}, table.md", soft_wrap=True)
    if any(row.get("failed") for row in result["rows"]):
        err.print("some sounds could not be decoded; each row has its error, and a row that is deleted is tried again")
        raise typer.Exit(1)


def _show(result: dict[str, Any], as_json: bool) -> None:
    from ..lm.report import captions, refusals, table

    if as_json:
        print(json.dumps(result))
    else:
        header, rows = table(result)
        shown = compact_table(f"{result['model']} on {result['benchmark']}")
        for i, column in enumerate(header):  # where it is narrow the header wraps, and no figure is cut
            shown.add_column(column, justify="right" if i else "left", min_width=max(len(row[i]) for row in rows))
        for cells in rows:
            shown.add_row(*cells)
        out.print(shown)
        for line in captions(result):
            err.print(line, soft_wrap=True)
    for line in refusals(result):
        err.print(f"note: left out {line}", soft_wrap=True)
