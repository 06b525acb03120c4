"""Why there was no answer, where the exception's name does not say whose fault it was. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel.api import redaction
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cause(NamedTuple):
    """What an exception in place of an answer came of.

    Attributes:
        told: What it was, as a part of a sentence.
        was_asked: Whether the request was on its way at all.
        is_transient: Whether a retry can help.
    """

    told: str
    was_asked: bool
    is_transient: bool


POOL: Final = Cause(
    "no connection of the client's own pool was free in time", was_asked=False, is_transient=True
)
CERTIFICATE: Final = Cause("the certificate is not trusted", was_asked=True, is_transient=False)
_POOLS: Final = frozenset({"PoolTimeout", "EmptyPoolError", "FullPoolError"})
_UNTRUSTED: Final = "SSLCertVerificationError"
"""Names of classes. Source: the standard library's, httpcore's and urllib3's exceptions."""

_VERIFY_FAILED: Final = re.compile("certificate.verify.failed", re.IGNORECASE)  # pyOpenSSL's too
# Source: `HTTPAdapter.cert_verify` of requests.
_NOT_THERE: Final = re.compile(r"Could not find .*\bTLS\b.*, invalid path: (.*)", re.DOTALL)
_TEXT_ALONE: Final = "network_error"
"""What the `assisters` SDK says of an exception of which it keeps the text alone."""

_MAX: Final = 20
"""How many exceptions are looked at."""


@fail_safe
def of(error: BaseException) -> Cause | None:
    """Find what an exception came of, in what it was raised from and holds, or None."""
    for one in _within(error):
        name, text = type(one).__name__, ""
        if name in _POOLS:
            return POOL
        if name == _UNTRUSTED:
            return CERTIFICATE
        is_text = getattr(one, "type", None) == _TEXT_ALONE
        if "SSL" in name or type(one) is OSError or is_text:
            text = str(one)
        if ("SSL" in name or is_text) and _VERIFY_FAILED.search(text):
            return CERTIFICATE
        found = _NOT_THERE.search(text)
        if found is not None:
            told = f"a file for TLS is not there: {redaction.clean(found[1])}"
            return Cause(told, was_asked=False, is_transient=False)
    return None


def _within(error: BaseException) -> Iterator[BaseException]:
    """Return an exception, what it was raised from or in place of, and what they hold."""
    left: list[object] = [error]
    met: set[int] = set()
    while left and len(met) < _MAX:
        one = left.pop(0)
        if not isinstance(one, BaseException) or id(one) in met:
            continue
        met.add(id(one))
        yield one
        left += [one.__cause__, one.__context__, *one.args, getattr(one, "reason", None)]


OF_FILES: Final = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""What an OSError is that comes from the file which the app sends, and from no socket."""

_DEAD_LOOP: Final = "Event loop is closed"


def is_of_dead_loop(error: BaseException) -> bool:
    """Return True if a pooled connection belongs to an event loop that has ended.

    Nothing was sent by it; httpx drops it, and a retry takes another. Source: the message of
    `asyncio.BaseEventLoop._check_closed`, and of uvloop's.
    """
    return isinstance(error, RuntimeError) and _DEAD_LOOP in str(error)
