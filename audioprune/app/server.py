"""Serving the page from this machine, and asking nothing of any other."""

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
    """Serve a page (`gr.Blocks`) until the process is interrupted; `ready` gets its address."""
    from .page import CSS, theme

    stay_home(host)
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
        # In short naps: where another thread gets the signal of Ctrl-C, a long wait would not end.
        while True:
            time.sleep(0.2)
    finally:
        blocks.close(verbose=False)


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host's ports."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def stay_home(host: str) -> None:
    """Keep Gradio from counting its users, and its look at its own address out of proxies."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [direct, "localhost", "127.0.0.1", host]))


def free_port(host: str, port: int) -> int:
    """The port, where it can be listened on; any free one for 0. Raises `ValueError` that says what to do instead."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            # As the server does: a port that was left a moment ago is free.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            return int(tried.getsockname()[1])
    except PermissionError as error:
        raise ValueError(f"--port is {port}, which needs rights that you do not have; choose one above 1023") from error
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"--host is {host!r}, which is no address of this machine; 127.0.0.1 is for this machine only, 0.0.0.0 "
                "for all who reach it"
            ) from error
        raise ValueError(
            f"port {port} of {host} is in use ({error.strerror}); choose another by --port, or a free one by --port 0"
        ) from error
