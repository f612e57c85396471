"""Tagging on Ray Data: the same rows, from several processes on one machine or a cluster."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import ray
import ray.data
import torch
from ray import cloudpickle
from ray.exceptions import RayError

from ..attention.packing import available, pack, packs
from ..files import Row
from .sounds import Sound, key
from .tagger import Tagger

WORKERS = 2
"""Default number of workers on this machine. More would only share its cores."""
BATCHES_A_TASK = 4
"""Batches per task. They are repeated if a worker dies."""
TASKS = 10_000
"""Most tasks. If there are more sounds, each task gets more, because Ray keeps a record of each task."""
TRIES = 5
"""Number of workers that may die on the same clips, because one of these sounds may be the cause."""


def _internals() -> Any:
    return ray._private.worker


_PRINT = getattr(_internals(), "print_to_stdstream", None)


class WorkerError(RuntimeError):
    """Raised if the workers cannot continue. The message gives the reason."""


class RayTagger:
    """A tagger in several processes. As a context manager, it starts Ray and stops it again.

    Args:
        tagger: a tagger on the CPU, not packed; each worker gets a copy.
        workers: number of processes, each on a GPU if device is "cuda"; by default two on this machine, and on a
            cluster one for each of its processors (of the device's kind).
        address: address of a Ray cluster; by default RAY_ADDRESS. Without both, Ray is started on this machine.
        device: "cpu", "cuda", or "auto" (CUDA if the cluster has GPUs).
        packed: whether workers on CPUs pack the model.
    """

    def __init__(
        self,
        tagger: Tagger,
        workers: int | None = None,
        address: str | None = None,
        device: str = "auto",
        packed: bool = True,
    ) -> None:
        self.tagger, self.packed = tagger, packed
        self.address = address or os.environ.get("RAY_ADDRESS")
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            _start(self.address)
        try:
            self._share(workers, device)
        except BaseException:
            self._stop()
            raise

    def _share(self, workers: int | None, device: str) -> None:
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        self.device = ("cuda" if gpus else "cpu") if device == "auto" else device.partition(":")[0]
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"--device is {device!r}; on Ray it must be auto, cpu or cuda (one GPU for each worker)")
        most, unit = (gpus, "GPU") if self.device == "cuda" else (cpus, "CPU")
        place = "this machine" if self.address is None else "the cluster"
        if not most:
            raise ValueError(f"--device is {device!r}, but Ray finds no {unit} on {place}; use another --device")
        self.workers = workers or (most if self.address else min(WORKERS, most))
        if self.workers > most:
            raise ValueError(f"--workers is {self.workers}, but {place} has {most} {unit}s; use at most {most}")
        cores = torch.get_num_threads() if self.address is None else cpus
        self.threads = max(1, cores // self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._started_ray:
            ray.shutdown()
            _internals().print_to_stdstream = _PRINT

    def __call__(self, sounds: Iterable[Path | Sound]) -> Iterator[Row]:
        """Yield a row for each sound, each once, in any order. Raises `WorkerError` if the workers cannot continue."""
        shipped = [Path(os.path.abspath(sound)) if isinstance(sound, Path) else sound for sound in sounds]
        if not shipped:
            return
        waiting = {key(sound) for sound in shipped}
        tasks = [
            {"number": number, "sounds": cloudpickle.dumps(task)} for number, task in enumerate(self._tasks(shipped))
        ]
        starts = ray.remote(num_cpus=0)(Counter).remote()
        # By default, Ray Data restarts a worker that died and repeats its tasks, without limit.
        answers = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            _Worker,
            fn_constructor_args=(ray.put(self.tagger), starts, TRIES, self.device, self.threads, self.packed),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(tasks))),
            num_cpus=1,
            num_gpus=1 if self.device == "cuda" else None,
        )
        batches = answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        try:
            for batch in batches:
                for row in (row for answer in batch["answer"] for row in _rows_of(answer.as_py())):
                    if row["path"] in waiting:  # rows of a worker that died may come again
                        waiting.remove(row["path"])
                        yield row
        except RayError as error:
            raise WorkerError(_reason(error)) from error
        if waiting:
            raise WorkerError(f"Ray lost {len(waiting)} of {len(shipped)} clips; start again to tag them")

    def _tasks(self, sounds: list[Path | Sound]) -> list[list[Path | Sound]]:
        """Split the sounds into tasks of a few batches; of fewer, if otherwise some workers would have no task."""
        batch = self.tagger.batch_size
        fair, most = -(-len(sounds) // (4 * self.workers * batch)), -(-len(sounds) // (TASKS * batch))
        size = batch * max(1, min(BATCHES_A_TASK, fair), most)
        return [sounds[start : start + size] for start in range(0, len(sounds), size)]


class _Worker:
    """The code of each process of a `RayTagger`."""

    def __init__(self, shared: Any, starts: Any, tries: int, device: str, threads: int, packed: bool) -> None:
        torch.set_num_threads(threads)
        self.tagger: Tagger = ray.get(shared)
        self.starts, self.tries = starts, tries
        model: Any = self.tagger.model
        model.to(device)
        self.tagger.front.to(device)
        if packed and device == "cpu" and available() and packs(model.dtype):
            pack(model, frozen=True)  # its weights do not change

    def __call__(self, tasks: pa.Table) -> pa.Table:
        pairs = zip(tasks["number"].to_pylist(), tasks["sounds"].to_pylist(), strict=True)
        return pa.table({"answer": [pickle.dumps(self._answer(number, pickle.loads(task))) for number, task in pairs]})

    def _answer(self, number: int, sounds: list[Path | Sound]) -> list[Row] | str:
        """Rows, or the reason of an error. As an exception, it would arrive inside one of Ray's."""
        try:
            self._begin(number, sounds)
            return list(self.tagger(sounds))
        except Exception as error:
            return str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"

    def _begin(self, number: int, sounds: list[Path | Sound]) -> None:
        """Raise `WorkerError` if too many workers died on this task."""
        self.starts.update.remote([number])
        most, times = ray.get(self.starts.most_common.remote(1))[0]
        if most == number and times > self.tries:
            raise WorkerError(
                f"{self.tries} workers in turn died on these clips: {sounds[0]} … {sounds[-1]}. Either memory ran out "
                "(use a smaller --batch-size, or fewer --workers), or one of the clips ends the process (leave it "
                "out); rows that were written stay"
            )


def _rows_of(answer: bytes) -> list[Row]:
    """Rows of a worker's answer. Raises `WorkerError` if it is the reason of an error."""
    rows: list[Row] | str = pickle.loads(answer)
    if isinstance(rows, str):
        raise WorkerError(rows.splitlines()[0])
    return rows


def _start(address: str | None) -> None:
    """Connect to a cluster, or start Ray here. Raises `ValueError` if no cluster answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning about an unused feature
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default, all other processes have priority
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray always prints a long message to stdout if a worker died, but stdout is for rows.
    _internals().print_to_stdstream = lambda *args, **kwargs: None
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        with _silent():  # otherwise it prints that its output is reduced
            if address is None:
                ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
            else:
                _check_address(address)
                ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise ValueError(f"Ray cannot be started here ({_reason(error)})") from error
        raise ValueError(
            f"no Ray cluster answers at {address} ({_reason(error)}); check that it is running (ray status) and, if "
            "it needs a token, that RAY_AUTH_TOKEN is set"
        ) from error


def _check_address(address: str) -> None:
    """Raise `OSError` if no server listens at a host and port. Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _reason(error: BaseException) -> str:
    """Reason inside Ray's exceptions, on one line."""
    while isinstance(error, RayError):
        cause = getattr(error, "cause", None) or error.__cause__
        if not isinstance(cause, Exception):
            break
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress stderr output, also from libraries outside Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
