"""Serving of the page from this machine, without requests to other machines."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

MOST_WAITING = 50
"""Sounds that may wait for their answer; Gradio tells the next visitor that the page is busy."""
MOST_BYTES = 500 * 1024**2
"""Greatest size of an upload."""


@contextmanager
def upload_folder() -> Iterator[str]:
    """A folder of this process for what visitors upload, which is removed at the end.

    Enter it before Gradio is imported, which else uses one folder for all its pages, and leaves files there.
    """
    before = os.environ.get("GRADIO_TEMP_DIR")
    if before is not None:
        os.makedirs(before, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="audioprune-app-", dir=before, ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def serve(
    blocks: Any,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    end: Callable[[], Any],
    browser: bool = False,
) -> None:
    """Serve a page until the process is interrupted or terminated.

    Args:
        blocks: the page (`gr.Blocks`).
        host: address to listen on.
        port: port to listen on.
        ready: called with the page's address.
        end: stops what is being computed; called at the end.
        browser: whether to open the page in a browser.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploads are removed then too
    launch(blocks, host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        ready(address)
        if browser:
            webbrowser.open(address)
        # Short waits: if another thread gets the signal of Ctrl-C, a long wait would not end.
        while True:
            time.sleep(0.2)
    finally:
        end()
        blocks.close(verbose=False)


def launch(blocks: Any, host: str, port: int) -> None:
    """Begin to serve a page in other threads, until `blocks.close()`."""
    from starlette.middleware import Middleware

    from .page import CSS, theme
    from .visitors import Gate, guard

    disable_requests(host)
    guard(blocks)
    blocks.queue(max_size=MOST_WAITING)
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        inline=False,
        quiet=True,
        prevent_thread_lock=True,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=MOST_BYTES,
        app_kwargs={"middleware": [Middleware(Gate)]},
        theme=theme(),
        css_paths=[CSS],
    )


def is_local(host: str) -> bool:
    """Whether only this machine can reach the ports of a host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def disable_requests(host: str) -> None:
    """Disable Gradio's usage statistics, and let its requests to its own address bypass proxies."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [direct, "localhost", "127.0.0.1", host]))


def free_port(host: str, port: int) -> int:
    """The port if it is free, or any free port for 0. Raises `ValueError` with a remedy if the port is not usable."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server does: a port that was closed a moment ago counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except PermissionError as error:
        raise ValueError(f"--port is {port}, for which you have no permission; choose one above 1023") from error
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"--host is {host!r}, which is not an address of this machine; use 127.0.0.1 for this machine only, or "
                "0.0.0.0 for all that can reach it"
            ) from error
        raise ValueError(
            f"port {port} of {host} is in use ({error.strerror}); choose another with --port, or any free one with "
            "--port 0"
        ) from error
