"""Tagging on Ray Data: the same rows from several processes, on one machine or a cluster."""

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

from ..attention.packing import DTYPES, available, pack
from .tagger import Row, Sound, Tagger, key

WORKERS = 2
"""On this machine, unless told otherwise: more only share its cores."""
BATCHES_A_TASK = 4
"""What is done again when a worker dies."""
TASKS = 10_000
"""At most; of more sounds each task gets more, because Ray keeps a record of each."""
TRIES = 5
"""How many workers may die over the same clips: some sound may be what ends them."""


def _internals() -> Any:
    return ray._private.worker


_PRINT = getattr(_internals(), "print_to_stdstream", None)


class WorkerError(RuntimeError):
    """Why workers cannot go on."""


class RayTagger:
    """A tagger in several processes. Usable as a context manager, which starts Ray and stops what it started.

    tagger: on the CPU and not packed; each worker gets a copy. workers: processes, each on a GPU where device is
    "cuda"; by default two on this machine, and on a cluster as many as it has processors (of the device's kind).
    address: of a Ray cluster; by default what RAY_ADDRESS says, else Ray is started on this machine.
    device: "cpu", "cuda", or "auto": CUDA where the cluster has GPUs. packed: whether workers on CPUs pack the model.
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
        self._ours = not ray.is_initialized()
        if self._ours:
            _start(self.address)
        try:
            self._share(workers, device)
        except BaseException:
            self._stop()
            raise

    def _share(self, workers: int | None, device: str) -> None:
        there = ray.cluster_resources()
        cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
        self.device = ("cuda" if gpus else "cpu") if device == "auto" else device.partition(":")[0]
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"--device is {device!r}; on Ray it is auto, cpu or cuda (one GPU for each worker)")
        most, unit = (gpus, "GPU") if self.device == "cuda" else (cpus, "CPU")
        where = "this machine" if self.address is None else "the cluster"
        if not most:
            raise ValueError(f"--device is {device!r}, and Ray sees no {unit} on {where}")
        self.workers = workers or (most if self.address else min(WORKERS, most))
        if self.workers > most:
            raise ValueError(f"--workers is {self.workers}, and {where} has {most} {unit}s; ask for at most {most}")
        cores = torch.get_num_threads() if self.address is None else cpus
        self.threads = max(1, cores // self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._ours:
            ray.shutdown()
            _internals().print_to_stdstream = _PRINT

    def __call__(self, sounds: Iterable[Path | Sound]) -> Iterator[Row]:
        """A row for each sound, each once, as they come. Raises `WorkerError` where workers cannot go on."""
        shipped = [Path(os.path.abspath(sound)) if isinstance(sound, Path) else sound for sound in sounds]
        if not shipped:
            return
        waiting = {key(sound) for sound in shipped}
        tasks = [
            {"number": number, "sounds": cloudpickle.dumps(task)} for number, task in enumerate(self._tasks(shipped))
        ]
        starts = ray.remote(num_cpus=0)(Counter).remote()
        # By default Ray Data restarts a worker that died, and gives its tasks to the next one, for ever.
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
                for row in (row for answer in batch["answer"] for row in _opened(answer.as_py())):
                    if row["path"] in waiting:  # what a worker said before it died may be said again
                        waiting.remove(row["path"])
                        yield row
        except RayError as error:
            raise WorkerError(_reason(error)) from error
        if waiting:
            raise WorkerError(f"Ray lost {len(waiting)} of {len(shipped)} clips; start again to tag them")

    def _tasks(self, sounds: list[Path | Sound]) -> list[list[Path | Sound]]:
        """Sounds for one worker at a time: a few batches, fewer where all workers would not get their share."""
        batch = self.tagger.batch_size
        fair, most = -(-len(sounds) // (4 * self.workers * batch)), -(-len(sounds) // (TASKS * batch))
        size = batch * max(1, min(BATCHES_A_TASK, fair), most)
        return [sounds[start : start + size] for start in range(0, len(sounds), size)]


class _Worker:
    """What each process of a `RayTagger` runs."""

    def __init__(self, shared: Any, starts: Any, tries: int, device: str, threads: int, packed: bool) -> None:
        torch.set_num_threads(threads)
        self.tagger: Tagger = ray.get(shared)
        self.starts, self.tries = starts, tries
        model: Any = self.tagger.model
        model.to(device)
        self.tagger.front.to(device)
        if packed and device == "cpu" and available() and model.dtype in DTYPES:
            pack(model, frozen=True)  # it only answers

    def __call__(self, tasks: pa.Table) -> pa.Table:
        pairs = zip(tasks["number"].to_pylist(), tasks["sounds"].to_pylist(), strict=True)
        return pa.table({"answer": [pickle.dumps(self._answer(number, pickle.loads(task))) for number, task in pairs]})

    def _answer(self, number: int, sounds: list[Path | Sound]) -> list[Row] | str:
        """Rows, or why there are none: as an exception it would arrive wrapped in Ray's."""
        try:
            self._begin(number, sounds)
            return list(self.tagger(sounds))
        except Exception as error:
            return str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"

    def _begin(self, number: int, sounds: list[Path | Sound]) -> None:
        """Raise `WorkerError` where this task has ended too many workers already."""
        self.starts.update.remote([number])
        most, times = ray.get(self.starts.most_common.remote(1))[0]
        if most == number and times > self.tries:
            raise WorkerError(
                f"{self.tries} workers in turn died over these clips: {sounds[0]} … {sounds[-1]}. Either memory "
                "ran out (a smaller --batch-size helps, or fewer --workers) or one of them ends the process: leave it "
                "out; what was written stays"
            )


def _opened(answer: bytes) -> list[Row]:
    rows: list[Row] | str = pickle.loads(answer)
    if isinstance(rows, str):
        raise WorkerError(rows.splitlines()[0])
    return rows


def _start(address: str | None) -> None:
    """Join a cluster, or start Ray here. Raises `ValueError` where no cluster answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a command line that reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about what is not used here
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default any other process comes first
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray tells on stdout, at length and whatever it is told, that a worker died: stdout is for rows.
    _internals().print_to_stdstream = lambda *args, **kwargs: None
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        with _silent():  # it would say that it was told to say little
            if address is None:
                ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
            else:
                _knock(address)
                ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise ValueError(f"Ray cannot be started here ({_reason(error)})") from error
        raise ValueError(
            f"no Ray cluster answers at {address} ({_reason(error)}); is it running (ray status), and where it asks "
            "for a token, is RAY_AUTH_TOKEN set?"
        ) from error


def _knock(address: str) -> None:
    """Raise `OSError` where nothing listens at a host and port: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _reason(error: BaseException) -> str:
    """What lies beneath Ray's wrapping, on one line."""
    while isinstance(error, RayError):
        beneath = getattr(error, "cause", None) or error.__cause__
        if not isinstance(beneath, Exception):
            break
        error = beneath
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what is not Python's from writing to stderr."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
