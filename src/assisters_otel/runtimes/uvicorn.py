"""uvicorn, alone or as gunicorn's worker: its process ends after `Server.shutdown`.

`Server.serve` restores the previous signal handlers and then raises the signal that has ended it
again. Python's own handler of SIGTERM ends the process at once. So after SIGTERM no code around
`serve` runs, and no `atexit` function. That is why the flush is attached to `Server.shutdown`.

A signal during the start ends the server after `Server.startup`, without `shutdown`. A server
outside the main thread gets no signals, and the process goes on after its end.

Source: ``uvicorn.server`` 0.30 to 0.54.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.patching import Target, as_function
from assisters_otel.process import PROCESS
from assisters_otel.providers.workers import DaemonWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_INTERVAL_S: Final = 0.05
"""The seconds between two looks at `force_exit`, which a second Ctrl-C sets."""

_CANCELLED_WAIT_S: Final = 0.5
"""The seconds that cancelled requests have to end. They need a few steps of the event loop."""


def _flush_after_shutdown(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper of `Server.shutdown` that flushes after it."""
    end = as_function(original)

    async def shutdown(server: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            ended = await end(server, *args, **kwargs)
            await _wait_for_cancelled(server)
            return ended
        finally:
            await _flush(server)

    return shutdown


def _flush_after_startup(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper of `Server.startup` that flushes if a signal has come during the start."""
    start = as_function(original)

    async def startup(server: Any, /, *args: Any, **kwargs: Any) -> Any:
        started = await start(server, *args, **kwargs)
        if server.should_exit:
            await _flush(server)
        return started

    return startup


async def _wait_for_cancelled(server: Any) -> None:
    """Wait for the requests that uvicorn has cancelled, so that their own attempts are recorded.

    After ``timeout_graceful_shutdown`` uvicorn cancels the tasks of requests without awaiting them.
    """
    tasks = set(getattr(server.server_state, "tasks", ()))
    if tasks and not server.force_exit:
        await asyncio.wait(tasks, timeout=_CANCELLED_WAIT_S)


async def _flush(server: Any) -> None:
    """Flush in another thread while the event loop goes on. A second Ctrl-C ends the wait."""
    if threading.current_thread() is not threading.main_thread():
        return
    senders = DaemonWorkers(1)
    (sent,) = senders.submit([PROCESS.flush_at_end])
    senders.stop()
    flushed = asyncio.wrap_future(sent)
    while not flushed.done() and not server.force_exit:
        await asyncio.wait([flushed], timeout=_POLL_INTERVAL_S)
    if flushed.done():
        flushed.exception()  # it is logged already; asyncio would log it again


TARGETS: Final = (
    Target("uvicorn", "Server.shutdown", _flush_after_shutdown),
    Target("uvicorn", "Server.startup", _flush_after_startup),
)
"""The methods to wrap."""
