"""Export of a classifier, with its pruning, to an ONNX file with metadata, checked with onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from ..core.settings import file_settings
from ..core.twin import twin
from ..files import move
from ..methods import Method
from .agreement import Exported, compare_logits, logits_of, noise
from .translation import ExportError, reason, translate

OPSET = 18
"""Version of ONNX's operators in the files. onnxruntime supports it since 1.14."""
STEPS = 4
"""Number of times that `export_onnx` calls `advance`."""


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

    The file has the same input as the model, with the same name, in float32: `input_values` (batch, frames, mels) of a
    spectrogram or (batch, samples) of a waveform, or Whisper's `input_features` (batch, mels, frames). Its output is
    `logits` (batch, labels). A batch may have any number of clips. The model does not change.

    The file's metadata contain more, as JSON: `audioprune.version`, `audioprune.model` (its class), `audioprune.method`
    (for `read_method`), `audioprune.tokens` (before the first stage and after each), `audioprune.labels`, and
    `audioprune.front_end` (arguments of `LogMel`, or null).

    The file is checked with onnxruntime on noise, in batches of 1 and 3, and on `clips`. If the check fails, no file is
    left at `path`.

    Args:
        model: an AST, AST-MP, AudioMAE or speech encoder with a classification head, in float32.
        path: the file to write; missing folders are created.
        samples: for a model over waveforms, the length of every clip in samples. The number of kept tokens is fixed in
            the graph, so a graph is for one length.
        front: the model's front end, to describe in the file.
        clips: a batch of real inputs for the check, in addition to noise.
        opset: version of ONNX's operators, from 18. From 23 on, attention is one of them, which newer runtimes support.
        overwrite: whether to replace an existing file.
        advance: called after each of `STEPS` steps.

    Raises:
        UnsupportedModelError: audioprune does not support the model.
        UntrainedError: it is pruned with a method that has learnt nothing yet.
        ValueError: the model or its method cannot be one graph; the message gives the reason and a remedy.
        ExportError: PyTorch's exporter failed, or the file gives other logits than the model.
        FileExistsError: `path` exists, and `overwrite` is not set.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is missing (`pip install 'audioprune[export]'`).
    """
    target = check_target(path, overwrite)
    if opset < OPSET:
        raise ValueError(f"opset is {opset}; it must be at least {OPSET}, and supported by the runtime")
    adapter = check_exportable(model)
    shape = adapter.clip_shape(samples)
    import_packages()
    _check_opset(opset)
    name, device = adapter.encoder.main_input_name, next(model.parameters()).device
    model = twin(model)  # the model itself may be in training or in use
    with unobserved(), torch.no_grad(), TemporaryDirectory(prefix=".onnx-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        batches = [noise(1, shape), noise(3, shape), *([] if clips is None else [clips.cpu()])]
        # Before the export, because the exporter's messages about a model that does not run are hard to read.
        expected = [logits_of(model, name, batch.to(device)) for batch in batches]
        advance()
        program = translate(model, name, noise(2, shape).to(device), opset)
        advance()
        program.model.metadata_props.update(_metadata(model, adapter, front))
        program.save(draft)
        nodes = len(program.model.graph)
        del program  # it contains another copy of the weights
        advance()
        check = compare_logits(model, _open(draft, opset), name, batches, expected)
        size = _move(draft.parent, target.parent)
        advance()
    return Exported(target, size, name, shape, expected[0].shape[1], opset, nodes, *check)


def import_packages() -> None:
    """Raise `ModuleNotFoundError` if a package of the extra `export` is missing."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401


def _check_opset(opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if opset > onnx_opset_version():
        raise ValueError(f"opset is {opset}; the installed onnx supports {OPSET} to {onnx_opset_version()}")


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Path of the file to write; its folder is created. Raises `FileExistsError` or another `OSError`."""
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
    """Adapter of the model. Raises `ValueError` with the reason if the model or its method cannot be one ONNX graph."""
    pruned, name = handle(model), type(model).__name__
    adapter = find_adapter(model) if pruned is None else pruned.adapter
    if not isinstance(adapter, BlockAdapter):
        raise ValueError(
            f"{name} is an audio-language model: it runs many times for one answer, with a growing cache and a prompt "
            "whose length depends on the sound, which one graph cannot do; export a classifier"
        )
    if model is adapter.tower or getattr(getattr(model, "config", None), "num_labels", None) is None:
        raise ValueError(f"{name} gives no logits; export a model with a classification head")
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    if dtype != torch.float32:
        raise ValueError(f"{name} is in {dtype}, but files are written in float32; export model.float()")
    if pruned is not None and pruned.rates:
        _check_method(pruned.method)
    return adapter


def _check_method(method: Method) -> None:
    name, others = type(method).__name__, "use TopK, SegmentwiseTopK, EViT or ToMe"
    if not method.static:
        raise ValueError(
            f"with {name}, the sound decides how many tokens stay, so the clips of a batch differ in length, but a "
            f"graph is for one number of tokens; {others}, which keep exactly K"
        )
    if method.sequential:
        raise ValueError(
            f"{name} selects tokens one by one, each based on those before, which needs thousands of small steps in a "
            f"graph; {others}"
        )


def open_session(path: str | Path, threads: int | None = None) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU, by default with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # its warnings are about its own choices
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _open(path: Path, opset: int) -> Any:
    """Session of a file that was just written. Raises `ExportError` if onnxruntime does not accept it."""
    try:
        return open_session(path)
    except Exception as error:  # onnxruntime's errors have no common class
        raise ExportError(f"onnxruntime does not accept the file, of opset {opset}: {reason(error)}") from error


def _metadata(model: Any, adapter: BlockAdapter, front: LogMel | None) -> dict[str, str]:
    """Metadata of the file."""
    from .. import __version__

    pruned, config = handle(model), model.config
    setting = file_settings(None if pruned is None else pruned.method)
    # The learnt weights are in the graph; the path of their file is not needed.
    setting.pop("weights", None)
    tokens = None
    if adapter.grid is not None:
        tokens = [adapter.grid.patches] if pruned is None else pruned.tokens
    front_keys = ("max_length", "mean", "std", "num_mel_bins", "padding")
    facts = {
        "version": __version__,
        "model": type(model).__name__,
        "method": setting,
        "tokens": tokens,
        "labels": [config.id2label.get(i, str(i)) for i in range(config.num_labels)],
        "front_end": None if front is None else {key: getattr(front, key) for key in front_keys},
    }
    return {f"audioprune.{key}": json.dumps(value) for key, value in facts.items()}


def _move(folder: Path, target: Path) -> int:
    """Move the file, and a file of weights if there is one, into the target folder. Returns the bytes of all."""
    parts = sorted(folder.iterdir(), reverse=True)  # weights before the file that names them
    size = sum(part.stat().st_size for part in parts)
    for part in parts:
        move(part, target / part.name)
    return size
