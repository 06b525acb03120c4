"""The exceptions of requests: which mean a failed connection, and which stand for urllib3's."""

from __future__ import annotations

from typing import Final

from assisters_otel.causes import FILE_ERRORS
from assisters_otel.clients.classes import is_a
from assisters_otel.fail_safe import fail_safe

AS_REQUESTS_RAISES: Final = {
    "ProtocolError": "ChunkedEncodingError",
    "IncompleteRead": "ChunkedEncodingError",
    "InvalidChunkLength": "ChunkedEncodingError",
    "DecodeError": "ContentDecodingError",
    "ReadTimeoutError": "ConnectionError",
    "SSLError": "SSLError",
}
"""The exceptions that requests raises in place of urllib3's, by the names of these. Source:
`Response.iter_content` of requests."""


@fail_safe
def is_transient(error: BaseException) -> bool:
    """Return True if the connection or the peer failed, or a time limit was reached."""
    # Neither a bad URL or scheme counts, nor an exception of the app's own body. A header of the
    # app's is checked before the send: this InvalidHeader is of the answer's Content-Length.
    met = error.args[0] if error.args else None
    # urllib3 reports any OSError as an aborted connection, also one of the file that is sent.
    within = (met, *getattr(met, "args", ()))
    names = "ConnectionError", "Timeout", "ChunkedEncodingError", "InvalidHeader"
    is_transient = is_a(error, ("requests",), *names)
    return is_transient and not any(isinstance(one, FILE_ERRORS) for one in within)
