"""The cause of a missing answer, where the exception's class does not say whether a retry helps.

A client wraps exceptions of other packages in its own: a certificate that is not trusted arrives as
a connection error. So the chain of causes and contexts is searched. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel.api import redaction
from assisters_otel.api.patterns import pattern
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cause(NamedTuple):
    """The cause of an exception in place of an answer.

    Attributes:
        told: The cause, as a part of a sentence.
        was_asked: True if the client has tried to send the request.
        is_transient: True if a retry can help.
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
"""Names of exceptions. Source: the standard library, httpcore and urllib3."""

_VERIFY_FAILED: Final = pattern("certificate.verify.failed", re.IGNORECASE)  # pyOpenSSL's too
# Source: `HTTPAdapter.cert_verify` of requests.
_NOT_THERE: Final = pattern(r"Could not find .*\bTLS\b.*, invalid path: (.*)", re.DOTALL)
_TEXT_ALONE: Final = "network_error"
"""The type that the `assisters` SDK gives an exception of which it keeps only the text."""

_MAX: Final = 20
"""The number of exceptions that are searched. A chain may be a ring, or very long."""


@fail_safe
def of(error: BaseException) -> Cause | None:
    """Return the cause of an exception, from its chain and its arguments, or None."""
    for one in _chain_of(error):
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


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes and contexts, and the exceptions in their arguments."""
    left: list[object] = [error]
    searched: set[int] = set()
    while left and len(searched) < _MAX:
        one = left.pop(0)
        if not isinstance(one, BaseException) or id(one) in searched:
            continue
        searched.add(id(one))
        yield one
        left += [one.__cause__, one.__context__, *one.args, getattr(one, "reason", None)]


FILE_ERRORS: Final = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""The classes of an OSError that comes from a file which the app sends, and from no socket."""

_DEAD_LOOP: Final = "Event loop is closed"


def is_of_dead_loop(error: BaseException) -> bool:
    """Return True if a pooled connection belongs to an event loop that has ended.

    Nothing was sent on it. httpx drops it, and a retry uses another one. Source: the message of
    `asyncio.BaseEventLoop._check_closed`, and of uvloop's.
    """
    return isinstance(error, RuntimeError) and _DEAD_LOOP in str(error)
