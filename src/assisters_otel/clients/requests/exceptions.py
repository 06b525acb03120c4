"""What the exceptions of requests mean, and how requests names those of urllib3."""

from __future__ import annotations

from typing import Final

from assisters_otel.causes import OF_FILES
from assisters_otel.clients.classes import is_a
from assisters_otel.fail_safe import fail_safe

# Source: `Response.iter_content` of requests.
AS_REQUESTS_RAISES: Final = {
    "ProtocolError": "ChunkedEncodingError",
    "IncompleteRead": "ChunkedEncodingError",
    "InvalidChunkLength": "ChunkedEncodingError",
    "ReadTimeoutError": "ConnectionError",
    "SSLError": "SSLError",
}
"""By the name of urllib3's exception."""


@fail_safe
def is_transient(error: BaseException) -> bool:
    """Return True if the connection, the peer or the clock failed."""
    # Not a bad URL, scheme or header, and not what the app's own body has raised.
    met = error.args[0] if error.args else None
    # urllib3 says of any OSError that the connection was aborted.
    within = (met, *getattr(met, "args", ()))
    is_transient = is_a(error, ("requests",), "ConnectionError", "Timeout", "ChunkedEncodingError")
    return is_transient and not any(isinstance(one, OF_FILES) for one in within)
