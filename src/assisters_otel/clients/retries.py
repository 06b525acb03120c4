"""httpx-retries and aiohttp-retry: marks one send of their retry code.

They are no clients, and nothing is recorded here. Inside one such send an equal request is a resend
for certain. Outside, it may be another request that looks the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts import control_flow
from assisters_otel.clients.patching import Target, as_function

if TYPE_CHECKING:
    from collections.abc import Callable


def _in_one_send(original: Callable[..., Any]) -> Callable[..., Any]:
    send = as_function(original)

    def sent(sender: Any, /, *args: Any, **kwargs: Any) -> Any:
        with control_flow.one_send():
            return send(sender, *args, **kwargs)

    return sent


def _in_one_send_async(original: Callable[..., Any]) -> Callable[..., Any]:
    send = as_function(original)

    async def sent(sender: Any, /, *args: Any, **kwargs: Any) -> Any:
        with control_flow.one_send():
            return await send(sender, *args, **kwargs)

    return sent


TARGETS: Final = (
    Target("httpx_retries", "RetryTransport.handle_request", _in_one_send),
    Target("httpx_retries", "RetryTransport.handle_async_request", _in_one_send_async),
    Target("aiohttp_retry", "client._RequestContext._do_request", _in_one_send_async),
)
"""The methods to wrap."""
