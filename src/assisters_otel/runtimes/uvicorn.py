"""uvicorn, alone or as gunicorn's worker: its process ends after `Server.shutdown`.

`Server.serve` then raises the signal that has ended it again, with the handler back in place that
was there before. That is Python's own, which ends the process at once: nothing that is wrapped
around `serve` runs after SIGTERM, nor anything of `atexit`. A signal that comes while the server
starts ends it after `Server.startup`. A server in another thread than the main one gets no signal,
and its end is not the process's. Source: ``uvicorn.server`` 0.30 to 0.54.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.patching import Target, unbound
from assisters_otel.process import here
from assisters_otel.providers.workers import Hands

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S: Final = 0.05
"""How often to look whether the user wants to wait no longer, in seconds."""

_CANCELLED_S: Final = 0.5
"""How long a cancelled request has to end, in seconds: it needs some steps of the loop."""


def _then_flush(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the server's end."""
    end = unbound(original)

    async def shutdown(server: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            ended = await end(server, *args, **kwargs)
            await _wait_for_cancelled(server)
            return ended
        finally:
            await _flush(server)

    return shutdown


def _then_flush_if_it_ends(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the server's start, after which it ends if a signal has come meanwhile."""
    start = unbound(original)

    async def startup(server: Any, *args: Any, **kwargs: Any) -> Any:
        started = await start(server, *args, **kwargs)
        if server.should_exit:
            await _flush(server)
        return started

    return startup


async def _wait_for_cancelled(server: Any) -> None:
    """Let the requests that uvicorn has just cancelled end, with what they have sent themselves.

    After ``timeout_graceful_shutdown`` it cancels their tasks, and does not wait for that.
    """
    tasks = set(getattr(server.server_state, "tasks", ()))
    if tasks and not server.force_exit:
        await asyncio.wait(tasks, timeout=_CANCELLED_S)


async def _flush(server: Any) -> None:
    """Send what is queued, beside what else runs in the loop. A second Ctrl-C ends the waiting."""
    if threading.current_thread() is not threading.main_thread():
        return
    senders = Hands(1)
    (sent,) = senders.begin([here.flush_at_end])
    senders.rest()
    flushed = asyncio.wrap_future(sent)
    while not flushed.done() and not server.force_exit:
        await asyncio.wait([flushed], timeout=_LOOK_S)
    if flushed.done():
        flushed.exception()  # the log has it already; asyncio would tell of it once more


TARGETS: Final = (
    Target("uvicorn", "Server.shutdown", _then_flush),
    Target("uvicorn", "Server.startup", _then_flush_if_it_ends),
)
"""What to wrap."""
