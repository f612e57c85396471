"""A classifier as an ONNX file, pruning and all: written, described in its metadata, and checked with onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import find_adapter
from ..adapters.blocks.adapter import BlockAdapter
from ..adapters.observers import unobserved
from ..audio.features import LogMel
from ..core.pruning import handle
from ..core.settings import describe
from ..core.twin import twin
from ..files import move
from ..methods import Method
from .operators import translations

OPSET = 18
"""Version of ONNX's operators that files are written in. onnxruntime knows it since 1.14."""
OUTPUT = "logits"
STEPS = 4
"""How often `export_onnx` calls `advance`."""
TOLERANCE = 1e-3
"""Most that onnxruntime's logits may differ from PyTorch's, as a share of the greatest logit."""
ROUNDING = 3e-6
"""Relative change of an input that is as large as what rounding does to it on the way."""
MOST_CLIPS = 2**20
"""In a batch: the tracer must be told a number."""

_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
"""Loggers of the exporter, which tell of things that a caller can do nothing about."""


class ExportError(RuntimeError):
    """A model that could not be written as ONNX, or whose file does not compute what the model does."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    path: the file; of a model of more than 1.5 GB the weights lie beside it, in `<path>.data`. size: bytes of both.
    input: name of its input. shape: of one clip. labels: how many logits a clip gets. opset: of ONNX's operators.
    nodes: of its graph.
    difference: greatest distance of onnxruntime's logits from PyTorch's over `clips` clips, as a share of the greatest
    logit, ties aside. ties: clips for which PyTorch itself keeps other tokens where the input changes by no more than
    rounding, so that either answer is the model's.
    """

    path: Path
    size: int
    input: str
    shape: tuple[int, ...]
    labels: int
    opset: int
    nodes: int
    difference: float
    clips: int
    ties: int


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    samples: int | None = None,
    front: LogMel | None = None,
    clips: Tensor | None = None,
    opset: int = OPSET,
    overwrite: bool = False,
    advance: Callable[[], Any] = lambda: None,
) -> Exported:
    """Write a classifier, pruned or not, as an ONNX file, and check it with onnxruntime.

    The file takes what the model takes, under the same name, in float32: `input_values` (batch, frames, mels) of a
    spectrogram or (batch, samples) of a waveform, or Whisper's `input_features` (batch, mels, frames). It gives
    `logits` (batch, labels). Any number of clips makes a batch. The model is left as it was.

    The file's metadata say the rest, as JSON: `audioprune.version`, `audioprune.model` (its class), `audioprune.method`
    (as `read_method` reads it), `audioprune.tokens` (before the first stage and after each), `audioprune.labels`, and
    `audioprune.front_end` (arguments of `LogMel`, or null).

    Nothing is left at `path` unless the check succeeds: noise in batches of 1 and 3, and `clips`, through both.

    Args:
        model: an AST, AST-MP, AudioMAE or speech encoder with a classification head, in float32.
        path: the file to write; folders that are not there are made.
        samples: for a model over waveforms, the length of every clip in samples. How many tokens are kept is a number
            in the graph, so that it is made for one length.
        front: the model's front end, to be described in the file.
        clips: a batch of real inputs, to check on besides noise.
        opset: version of ONNX's operators, from 18. From 23 on attention is one of them, which newer runtimes know.
        overwrite: write over a file that is there.
        advance: called after each of `STEPS` steps.

    Raises:
        UnsupportedModelError: audioprune does not know the model.
        UntrainedError: it is pruned by a method that has learnt nothing yet.
        ValueError: the model or its method cannot be held by one graph; the message says why, and what can.
        ExportError: PyTorch's exporter failed, or the file's logits are not the model's.
        FileExistsError: `path` is there, and `overwrite` is not set.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is missing (`pip install 'audioprune[onnx]'`).
    """
    target = check_target(path, overwrite)
    if opset < OPSET:
        raise ValueError(f"opset is {opset}; it is at least {OPSET}, and at most what the runtime knows")
    adapter = check_exportable(model)
    shape = adapter.clip_shape(samples)
    import_packages()
    _check_known(opset)
    name, device = adapter.encoder.main_input_name, next(model.parameters()).device
    model = twin(model)  # the model itself may be in training, or be served meanwhile
    with unobserved(), torch.no_grad(), TemporaryDirectory(prefix=".onnx-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        batches = [noise(1, shape), noise(3, shape), *([] if clips is None else [clips.cpu()])]
        # Before the exporter, whose messages about a model that does not run are hard to read.
        expected = [_logits(model, name, batch.to(device)) for batch in batches]
        advance()
        program = _translated(model, name, noise(2, shape).to(device), opset)
        advance()
        program.model.metadata_props.update(_facts(model, adapter, front))
        program.save(draft)
        nodes = len(program.model.graph)
        del program  # it holds the weights once more
        advance()
        found = _compare(model, _opened(draft, opset), name, batches, expected)
        size = _move(draft.parent, target.parent)
        advance()
    return Exported(target, size, name, shape, expected[0].shape[1], opset, nodes, *found)


def import_packages() -> None:
    """Raises `ModuleNotFoundError` where a package of the extra `onnx` is missing."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401


def _check_known(opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if opset > onnx_opset_version():
        raise ValueError(f"opset is {opset}; the onnx that is installed knows {OPSET} to {onnx_opset_version()}")


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """The file to write, its folder made. Raises `FileExistsError` or another `OSError` that names what is wrong."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name the file to write, such as {path / 'model.onnx'}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists; name another file, or pass overwrite=True (--overwrite)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise type(error)(f"{path.parent}: cannot be written to ({error.strerror or error})") from error
    return path


def check_exportable(model: nn.Module) -> BlockAdapter:
    """The model's adapter. Raises `ValueError` that says why a model, or what prunes it, cannot be one ONNX graph."""
    pruned, name = handle(model), type(model).__name__
    adapter = find_adapter(model) if pruned is None else pruned.adapter
    if not isinstance(adapter, BlockAdapter):
        raise ValueError(
            f"{name} is an audio-language model: it answers by running again and again, with a memory that grows and a "
            "prompt whose length depends on the sound, and one graph holds no such thing; classifiers can be exported"
        )
    if model is adapter.tower or getattr(getattr(model, "config", None), "num_labels", None) is None:
        raise ValueError(f"{name} gives no logits; export a model with a classification head")
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    if dtype != torch.float32:
        raise ValueError(f"{name} is in {dtype}, but files are written in float32: export model.float()")
    if pruned is not None and pruned.rates:
        _check_method(pruned.method)
    return adapter


def _check_method(method: Method) -> None:
    name, others = type(method).__name__, "take TopK, SegmentwiseTopK, EViT or ToMe"
    if not method.static:
        raise ValueError(
            f"{name} lets the sound decide how many tokens stay, so that the clips of a batch differ in length, and a "
            f"graph is made for one number of tokens; {others}, which keep exactly K"
        )
    if method.sequential:
        raise ValueError(
            f"{name} chooses one token after the other, each by those before it, which would be thousands of small "
            f"steps in a graph; {others}"
        )


def open_session(path: str | Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as PyTorch has unless told."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # its warnings are about its own choices
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _opened(path: Path, opset: int) -> Any:
    """A session of a file that was just written. Raises `ExportError` where onnxruntime does not take it."""
    try:
        return open_session(path)
    except Exception as error:  # onnxruntime's errors have no class in common
        raise ExportError(f"onnxruntime does not take the file, of opset {opset}: {_reason(error)}") from error


def noise(batch: int, shape: Sequence[int]) -> Tensor:
    """(batch, *shape), the same for each batch size."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def _logits(model: Any, name: str, batch: Tensor) -> Tensor:
    return model(**{name: batch}).logits.cpu()


class _Logits(nn.Module):
    """A model's logits alone, from the input that its file will have."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(**{self.name: clips}).logits


def _translated(model: nn.Module, name: str, example: Tensor, opset: int) -> Any:
    """The model as PyTorch's `ONNXProgram`, for batches of any size."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    batch = torch.export.Dim("batch", min=1, max=MOST_CLIPS)
    module = _Logits(model, name).eval()
    try:
        with _silent():
            # By itself: torch.onnx.export would write a batch that cannot be free as a fixed one, and say nothing.
            traced = torch.export.export(module, (example,), dynamic_shapes={"clips": {0: batch}}, strict=False)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[name],
                output_names=[OUTPUT],
                custom_translation_table=translations(),
            )
    except Exception as error:  # whatever the tracer stumbles over
        pruned = handle(model)
        by = "" if pruned is None else f", pruned by {pruned.method},"
        raise ExportError(f"{type(model).__name__}{by} could not be written as ONNX: {_reason(error)}") from error
    assert program is not None
    # The exporter notes for every node which line of which file on this machine it came from.
    ClearMetadataAndDocStringPass()(program.model)
    for value in (
        *program.model.graph.initializers.values(),
        *program.model.graph.inputs,
        *program.model.graph.outputs,
    ):
        value.metadata_props.clear()
    return program


def _reason(error: BaseException) -> str:
    """What an error says, without the exporter's advice: the first line of what caused it."""
    while isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter's warnings and log lines are kept to itself."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _facts(model: Any, adapter: BlockAdapter, front: LogMel | None) -> dict[str, str]:
    """The file's metadata."""
    from .. import __version__

    pruned, config = handle(model), model.config
    setting = describe(None if pruned is None else pruned.method)
    # What was learnt is in the graph; where it was read from is of no use elsewhere.
    setting.pop("weights", None)
    tokens = None
    if adapter.grid is not None:
        tokens = [adapter.grid.patches] if pruned is None else pruned.tokens
    of_front = ("max_length", "mean", "std", "num_mel_bins", "padding")
    facts = {
        "version": __version__,
        "model": type(model).__name__,
        "method": setting,
        "tokens": tokens,
        "labels": [config.id2label.get(i, str(i)) for i in range(config.num_labels)],
        "front_end": None if front is None else {key: getattr(front, key) for key in of_front},
    }
    return {f"audioprune.{key}": json.dumps(value) for key, value in facts.items()}


def _compare(
    model: nn.Module, session: Any, name: str, batches: list[Tensor], expected: list[Tensor]
) -> tuple[float, int, int]:
    """`Exported`'s difference, clips and ties. Raises `ExportError` where the file computes something else."""
    scale = float(torch.cat(expected).abs().max().clamp_min(1e-12))
    difference, ties = 0.0, 0
    for batch, logits in zip(batches, expected, strict=True):
        answered = torch.from_numpy(session.run([OUTPUT], {name: batch.numpy()})[0])
        for clip, ours, theirs in zip(batch, logits, answered, strict=True):
            distance = float((ours - theirs).abs().max()) / scale
            if distance <= TOLERANCE:
                difference = max(difference, distance)
            elif _is_tie(model, name, clip, ours, TOLERANCE * scale):
                ties += 1
            else:
                raise ExportError(
                    f"{type(model).__name__}: onnxruntime's logits differ from PyTorch's by {distance:.1e} of the "
                    f"greatest logit, where {TOLERANCE:g} is allowed, so that no file was left; please report it, with "
                    "the versions of torch, onnxscript and onnxruntime"
                )
    return difference, sum(map(len, batches)), ties


def _is_tie(model: nn.Module, name: str, clip: Tensor, logits: Tensor, tolerance: float, draws: int = 8) -> bool:
    """Whether PyTorch itself answers one clip otherwise where its input changes by no more than rounding would change
    it: then two tokens rank alike, and either may be kept."""
    if handle(model) is None:
        return False
    changed = clip * (1 + ROUNDING * noise(draws, clip.shape))
    answers = _logits(model, name, changed.to(next(model.parameters()).device))
    return bool(((answers - logits).abs() > tolerance).any())


def _move(folder: Path, target: Path) -> int:
    """Put the files of the drafts' folder beside each other at the target. Returns the bytes of all."""
    parts = sorted(folder.iterdir(), reverse=True)  # weights before the file that names them
    size = sum(part.stat().st_size for part in parts)
    for part in parts:
        move(part, target / part.name)
    return size
