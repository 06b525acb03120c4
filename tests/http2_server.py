"""The fake API over HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from hypercorn.asyncio import serve
from hypercorn.config import Config


@contextlib.contextmanager
def http2(app):
    """The same app behind hypercorn, which speaks HTTP/2 without TLS by prior knowledge."""
    started, ended, loops = threading.Event(), [], []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        port = listener.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.errorlog = None
        config.graceful_timeout = 0.1

        async def main():
            ended.append(asyncio.Event())
            loops.append(asyncio.get_running_loop())
            started.set()
            await serve(app, config, shutdown_trigger=ended[0].wait)

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        started.wait(5)
        yield f"http://127.0.0.1:{port}/v1"
        loops[0].call_soon_threadsafe(ended[0].set)
        thread.join(5)
        listener.detach()
