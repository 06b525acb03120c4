"""Bounds an OTLP receiver's answer, in size and in time.

requests reads a body to its end, and its time limit is one of each read. So a body that never ends
holds an export for ever, and all that comes after it. A stream of events answers like that, behind
a wrong port or a broken proxy; a collector does not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import Response
    from urllib3 import HTTPResponse

MAX_BYTES: Final = 65_536
"""A response of OTLP is some hundred bytes long. The rest of a longer one is not read."""

_PIECE_BYTES: Final = 16
"""How much is read before the time is checked. One read waits until it has all of that."""


class BoundedBody:
    """A response's raw body, which ends after `MAX_BYTES` and has to end in time.

    Args:
        raw: urllib3's response, as `requests.Response.raw` holds it. All else of it is unchanged.
        until_s: When it has to have ended, in seconds of `time.monotonic`. None for no limit.
    """

    def __init__(self, raw: HTTPResponse, until_s: float | None) -> None:
        self._raw = raw
        self._until_s = until_s

    def __getattr__(self, name: str) -> object:
        return getattr(self._raw, name)

    def stream(self, _size: int, *, decode_content: bool) -> Iterator[bytes]:
        """Yield the decoded body, as requests asks urllib3 for it.

        Raises:
            requests.ReadTimeout: It has not ended in time.
        """
        read = 0
        is_over = False
        try:
            for piece in self._raw.stream(_PIECE_BYTES, decode_content=decode_content):
                left_s(self._until_s)
                yield piece
                read += len(piece)
                if read > MAX_BYTES:
                    return
            is_over = True
        finally:
            if not is_over:  # else the connection is kept for the next export
                self._raw.close()


def bound(response: Response, until_s: float | None) -> Response:
    """Bound the body of *response*, which has not been read, and return that."""
    if hasattr(response.raw, "stream"):  # an adapter of a credential provider may have another
        response.raw = BoundedBody(response.raw, until_s)
    return response


def left_s(until_s: float | None) -> float | None:
    """Return how long there is until *until_s*, in seconds. None is for ever.

    Raises:
        requests.ReadTimeout: No time is left.
    """
    if until_s is None:
        return None
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise requests.ReadTimeout("the receiver has not answered in time")
    return left_s
