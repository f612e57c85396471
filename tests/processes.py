"""Processes for what is tested of a process: how it is killed, how it shares work with others, what it leaves behind.

They are forked from one in which PyTorch and Transformers are imported already. To import them takes many times as long
as what most of these processes do. How a command begins in a new Python is tested in test_quick_start.py.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "audioprune.models.audiomae",
    "audioprune.tagging.tagger",
    "audioprune.cli",
]
COMMAND = "from audioprune.cli import main; main()"
"""The command line, as code for `begin`."""


def begin(code: str, *words: object, said: Path, most_bytes: int | None = None, **environment: object) -> BaseProcess:
    """Begin a process that runs Python code with words as its arguments. It is deaf to nothing, unlike a shell's job.

    said: file for what it prints. most_bytes: how large a file may grow. environment: variables of its own.
    """
    given = {name: str(value) for name, value in environment.items()}
    arguments = (code, [str(word) for word in words], said, most_bytes, given)
    process = _forks().Process(target=_run, args=arguments, daemon=True)
    process.start()
    return process


def run(code: str, *words: object, said: Path, most_bytes: int | None = None, **environment: object) -> int | None:
    """Run a process to its end. Returns its exit code, or minus the signal that killed it."""
    process = begin(code, *words, said=said, most_bytes=most_bytes, **environment)
    process.join(300)
    return process.exitcode


@functools.cache
def _forks() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(code: str, words: list[str], said: Path, most_bytes: int | None, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(said, "wb") as file:  # beneath Python, as what is not Python prints too
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.environ |= environment
    if most_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    import torch

    torch.set_num_threads(1)
    sys.argv = ["-c", *words]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
