"""The exceptions of aiohttp: which mean that the connection or the peer failed."""

from __future__ import annotations

import asyncio

from assisters_otel.causes import FILE_ERRORS, is_of_connection, is_of_dead_loop
from assisters_otel.clients.classes import is_a
from assisters_otel.fail_safe import fail_safe


@fail_safe
def is_transient(error: BaseException) -> bool:
    """Return True if the connection or the peer failed, or a time limit was reached."""
    # Neither a bad URL counts, nor an exception of the app's own body.
    cause = error.__cause__
    if type(cause).__name__ == "ContentEncodingError":  # as with the other clients
        return False
    if type(error).__name__ in {"ClientConnectionError", "ClientOSError"} and cause is not None:
        network = (OSError, asyncio.TimeoutError, asyncio.CancelledError)
        is_theirs = isinstance(cause, network) or is_a(cause, ("aiohttp",), "ClientError")
        return is_theirs and not isinstance(cause, FILE_ERRORS)
    kinds = ("ClientConnectionError", "ClientPayloadError", "ClientResponseError")
    # A connector for SOCKS reads by asyncio's streams, which say so if the proxy hangs up.
    of_asyncio = asyncio.TimeoutError, asyncio.IncompleteReadError
    is_theirs = is_a(error, ("aiohttp",), *kinds) or isinstance(error, of_asyncio)
    return is_theirs or is_of_connection(error) or is_of_dead_loop(error)
