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
from collections.abc import Mapping
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


def begin(
    code: str,
    *words: object,
    said: Path,
    errors: Path | None = None,
    most_bytes: int | None = None,
    environment: Mapping[str, object] = {},
) -> BaseProcess:
    """Begin a process that runs Python code with words as its arguments. It hears Ctrl-C, unlike a shell's job.

    said: file for what it prints. errors: file for stderr, if another. most_bytes: how large a file may grow.
    environment: variables of its own.
    """
    variables = {name: str(value) for name, value in environment.items()}
    arguments = (code, [str(word) for word in words], said, errors or said, most_bytes, variables)
    process = _forks().Process(target=_run, args=arguments, daemon=True)
    process.start()
    return process


def run(code: str, *words: object, said: Path, errors: Path | None = None, most_bytes: int | None = None) -> int | None:
    """Run a process to its end. Returns its exit code, or minus the signal that killed it."""
    process = begin(code, *words, said=said, errors=errors, most_bytes=most_bytes)
    process.join(300)
    return process.exitcode


@functools.cache
def _forks() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(
    code: str, words: list[str], said: Path, errors: Path, most_bytes: int | None, environment: dict[str, str]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, said), (2, errors)):  # beneath Python, as what is not Python prints too
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
        os.dup2(place, number)
    os.environ |= environment
    if most_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    import torch

    torch.set_num_threads(1)
    sys.argv = ["-c", *words]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
