"""Options that several commands share, and what they build."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..methods import names
from .console import progress, warnings_as_notes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..audio.features import LogMel
    from ..audio.front_end import FrontEnd
    from ..methods import Method

DEFAULT_KEEP_RATE = 0.7
TYPICAL_SECONDS = 10.0
"""Length of a clip by which a setting is chosen for models that take clips of any length."""

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help='"esc10" (shipped: 10 everyday sounds), a folder in transformers\' format, an AST or AudioMAE weight '
        "file, or a hub id such as MIT/ast-finetuned-audioset-16-16-0.442.",
    ),
]
_UNTRAINED = names.words(trained=False, but=(names.RECOMMENDED, "topk", "segmentwise"))
_TRAINED = [entry.word for entry in names.TABLE if entry.needs_training]
METHOD_HELP = (
    f'"{names.RECOMMENDED}" (what measured best without training: similar tokens are merged), "topk" '
    '(the paper\'s: the whole clip competes), "segmentwise" (each time segment keeps its share), '
    f"{', '.join(_UNTRAINED)}; one of them with a choice of its own, such as "
    'topk+merge; a JSON file such as {"method": "TopK", "keep_rate": 0.5}; or a folder with a pruning.json, which '
    f"{', '.join(_TRAINED[:-1])} and {_TRAINED[-1]} need: they choose by what a training taught them."
)
MethodOption = Annotated[str, typer.Option(help=METHOD_HELP)]
DefaultMethodOption = Annotated[
    str | None,
    typer.Option(
        help=f"{METHOD_HELP} [default: that of a --model that was saved with its pruning, else recommended; topk where "
        "a keep rate or another of its options is given]",
        show_default=False,
    ),
]
KeepRateOption = Annotated[
    str | None,
    typer.Option(
        help="Share of tokens that stays at each pruned layer, in (0, 1]; 1.0 prunes nothing; several with commas are "
        f"one a layer. [default: {DEFAULT_KEEP_RATE}; for recommended the one at which half of the work is left]",
        show_default=False,
    ),
]
ScoreOption = Annotated[
    str | None,
    typer.Option(
        help=f"What makes a token worth keeping: {', '.join(names.SCORES[:-1])} or {names.SCORES[-1]}. [default: the "
        "method's own; attention for topk]",
        show_default=False,
    ),
]
SegmentsOption = Annotated[
    int | None,
    typer.Option(help="Time segments that share the budget. [default: 8 for segmentwise]", show_default=False),
]
DroppedOption = Annotated[
    str | None,
    typer.Option(
        help="What becomes of the rest: discard, fuse (into one token) or merge (into the nearest kept token). "
        "Without fine-tuning, merge costs least accuracy. [default: the method's own; discard for topk]",
        show_default=False,
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        help="0-based blocks that prune, such as 3,6,9, or all (pictures count from 1: block 4 is 3 here). [default: "
        "four blocks or all for recommended, else a quarter, half and three quarters of the depth]",
        show_default=False,
    ),
]
SpeedUpOption = Annotated[
    float | None,
    typer.Option(
        help="In place of --method: how many times as fast as unpruned, such as 1.5. The mildest recommended merging "
        "that is measured to be so fast here, in batches of --batch-size.",
        show_default=False,
    ),
]
DeviceOption = Annotated[str, typer.Option(help='"auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" …')]
DtypeOption = Annotated[
    str, typer.Option(help="float32, bfloat16 or float16; audioprune doctor tells whether bfloat16 is faster here.")
]
PACK_HELP = "Lay the weights out for this CPU's fastest kernels: the same answers to rounding, more memory."
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]


@dataclass(frozen=True)
class ChosenMethod:
    """A method as the command line names it. fits_work: whether its keep rate follows from the model's work."""

    method: Method
    fits_work: bool = False

    def for_model(self, model: PreTrainedModel, clip_seconds: float = TYPICAL_SECONDS) -> Method:
        """The method; "recommended" without a keep rate, at the one that leaves half of this model's work, on clips of
        this length if the model takes any."""
        from ..core.recommend import recommended, shape_of_clip

        return recommended(model, inputs=shape_of_clip(model, clip_seconds)) if self.fits_work else self.method

    def as_begun(self, model: PreTrainedModel, begun: dict[str, Any], clip_seconds: float) -> Method | None:
        """The method by which version 0.1 began a run with these words; None if the run was not begun so.

        begun: the settings of the run."""
        from ..adapters.blocks.adapter import find_blocks
        from ..core.recommend import recommended_before, shape_of_clip
        from ..core.settings import describe

        if not self.fits_work or begun.get("method") != "ToMe" or find_blocks(model).pads:
            return None
        method = recommended_before(model, shape_of_clip(model, clip_seconds))
        return method if describe(method).items() <= begun.items() else None


def chosen_by_time(model: PreTrainedModel, speed_up: float, batch_size: int) -> Method:
    """The recommended setting that is measured to be so many times as fast, in batches of this size."""
    import torch

    from ..adapters.blocks.adapter import find_blocks
    from ..audio.files import SAMPLE_RATE
    from ..core.recommend import recommended

    blocks = find_blocks(model)
    shape = blocks.clip_shape(round(TYPICAL_SECONDS * SAMPLE_RATE) if blocks.frames is None else None)
    batch = torch.randn(batch_size, *shape, device=model.device, dtype=model.dtype)
    with progress("", brief=True) as bar, warnings_as_notes():
        bar.add_task("Choosing by time", total=None)
        return recommended(model, speed_up=speed_up, inputs=batch)


def work_left(model: PreTrainedModel, method: Method) -> str:
    """What a method leaves of a model's work, in words. model: unpruned."""
    from ..core.cost import macs
    from ..core.pruning import prune
    from ..core.recommend import shape_of_clip

    if not method.static:
        return "what is left of the multiply-accumulates depends on the sound"
    clip = shape_of_clip(model, TYPICAL_SECONDS)
    full = macs(model, inputs=clip)
    with prune(model, method):
        share = macs(model, inputs=clip) / full
    length = "" if clip is None else f" of a clip of {TYPICAL_SECONDS:g} s"
    return f"{100 * share:.0f} % of the multiply-accumulates{length} are left"


def build_method(name: str | None, *options: Any, **more: Any) -> Method:
    """As `choose_method`, at the keep rate that is given or the default."""
    return choose_method(name, *options, **more).method


def choose_method(
    name: str | None,
    keep_rate: str | None = None,
    score: str | None = None,
    segments: int | None = None,
    dropped: str | None = None,
    layers: str | None = None,
    model: str | None = None,
) -> ChosenMethod:
    """A method from the command line's words; without a name "topk" if one of its settings is given, else that of the
    model's folder, or "recommended". Raises `ValueError` for words that make no sense."""
    from ..core.recommend import HALF
    from ..core.settings import parse_method

    given: dict[str, Any] = {
        "score": score,
        "segments": segments,
        "dropped": dropped,
        "layers": layers if layers in (None, "all") else tuple(parse_numbers(layers, int, "--layers")),
    }
    given = {key: value for key, value in given.items() if value is not None}
    if name is None:
        name = "topk" if given or keep_rate is not None else saved_pruning(model) or names.RECOMMENDED
    try:
        chosen = parse_method(name, "give the folder of that training as --method")
    except ValueError as error:
        raise ValueError(f"--method: {error}") from error
    _check_taken(name, chosen.kind, given)
    rate = chosen.keep_rate or (HALF if chosen.fits_work else DEFAULT_KEEP_RATE)
    rate = rate if keep_rate is None else parse_rates(keep_rate)
    fits_work = chosen.fits_work and keep_rate is None and not given
    return ChosenMethod(chosen.at(rate, **given), fits_work)


def saved_pruning(model: str | None) -> str | None:
    """The folder of a model that was saved with its pruning, None where it was not."""
    from ..core.saved import settings_folder

    folder = None if model is None else settings_folder(model)
    return None if folder is None else str(folder)


def _check_taken(name: str, kind: type[Method], given: dict[str, Any]) -> None:
    """Raise `ValueError` that names the options that this kind of method does not have."""
    taken = {field.name for field in fields(kind)}
    options = [key for key in ("score", "segments", "dropped", "layers") if key in taken]
    wrong = [f"--{key}" for key in given if key not in taken]
    if wrong:
        raise ValueError(
            f"--method {name} ({kind.__name__}) takes no {' and no '.join(wrong)}; besides --keep-rate it takes "
            f"{', '.join(f'--{key}' for key in options)}"
        )


def parse_rates(text: str, option: str = "--keep-rate") -> float | list[float]:
    """ "0.5" → 0.5; "0.9,0.7,0.5" → one a layer."""
    rates = parse_numbers(text, float, option)
    return rates[0] if len(rates) == 1 else rates


def parse_numbers(text: str, kind: type, option: str) -> list[Any]:
    """Numbers separated by commas; `option` is named where they are none."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} is {text!r}; give numbers separated by commas") from None


def pick_device(device: str) -> str:
    """ "auto" → CUDA where there is one. Raises `ValueError` where the device is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {device!r}, but PyTorch sees no CUDA device here; use --device cpu")
    try:
        if device == "meta":
            raise RuntimeError("holds no data")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"--device is {device!r}, which PyTorch cannot use here ({reason}); use cpu") from error
    return device


def parse_dtype(dtype: str) -> torch.dtype:
    """ "bfloat16" → torch.bfloat16. Raises `ValueError` for what is none of the three."""
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in dtypes:
        raise ValueError(f"--dtype is {dtype!r}; there are {', '.join(dtypes)}")
    return dtypes[dtype]


def quiet() -> None:
    """Keep transformers' bars and reports out of a command's own output; TRANSFORMERS_VERBOSITY brings reports back."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    downloads_are_shown = not are_progress_bars_disabled()
    logging.disable_progress_bar()
    if downloads_are_shown:  # which takes minutes, and of which nothing else tells
        enable_progress_bars()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()


def open_model(source: str, device: str = "auto", dtype: str = "float32") -> tuple[PreTrainedModel, FrontEnd]:
    """A model on its device and in its dtype, unpruned even where it was saved with its pruning, and its front end."""
    from ..models.loading import load_features

    return _opened(source, device, dtype, load_features)


def open_spectrogram_model(source: str, device: str = "auto", dtype: str = "float32") -> tuple[PreTrainedModel, LogMel]:
    """As `open_model`, of a model whose tokens are patches of a spectrogram, which can be drawn."""
    from ..models.loading import load_log_mel

    return _opened(source, device, dtype, load_log_mel)


def _opened(source: str, device: str, dtype: str, load_front: Callable[[str, PreTrainedModel], Any]) -> Any:
    from ..models.loading import load

    quiet()
    kind, device = parse_dtype(dtype), pick_device(device)
    model = load(source)
    front = load_front(source, model)
    moved: Any = model
    return moved.to(device=device, dtype=kind), front.to(device)


def open_lm(source: str, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """An audio-language model on its device and in its dtype, and its processor."""
    from ..lm.loading import load_lm

    quiet()
    device = pick_device(device)
    if not Path(source).exists():  # shipped, or the hub's, whose downloads have bars of their own
        return load_lm(source, device, dtype)
    with progress("", brief=True) as bar:
        bar.add_task(f"Loading {source}", total=None)
        return load_lm(source, device, dtype)


def pack_on_cpu(model: PreTrainedModel) -> None:
    """Pack a model where that can be: in the dtypes and on the device that `audioprune.pack` is for."""
    from ..attention.packing import available, pack, packs

    if available() and model.device.type == "cpu" and packs(model.dtype):
        pack(model, frozen=True)  # the commands only let it answer
