"""Serving of the page from this machine, without requests to other machines."""

from __future__ import annotations

import errno
import os
import socket
import time
import webbrowser
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any


def serve(
    blocks: Any,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    browser: bool = False,
) -> None:
    """Serve a page until the process is interrupted.

    Args:
        blocks: the page (`gr.Blocks`).
        host: address to listen on.
        port: port to listen on.
        ready: called with the page's address.
        browser: whether to open the page in a browser.
    """
    from .page import CSS, theme

    disable_requests(host)
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
        max_file_size="500mb",
        theme=theme(),
        css_paths=[CSS],
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        ready(address)
        if browser:
            webbrowser.open(address)
        # Short waits: if another thread gets the signal of Ctrl-C, a long wait would not end.
        while True:
            time.sleep(0.2)
    finally:
        blocks.close(verbose=False)


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
