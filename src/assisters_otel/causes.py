"""The cause of a missing answer, where the exception's class does not say whether a retry helps.

A client wraps exceptions of other packages in its own: a certificate that is not trusted arrives as
a connection error. So the chain of causes is searched. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from assisters_otel import catalog
from assisters_otel.api import redaction
from assisters_otel.api.patterns import pattern
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cause(Record):
    """The cause of an exception in place of an answer.

    Attributes:
        told: The cause, as a part of a sentence.
        was_asked: True if the client has tried to send the request.
        is_transient: True if a retry can help.
        is_of_proxy: True if a proxy has refused to connect the client with the API.
    """

    told: str
    was_asked: bool
    is_transient: bool
    is_of_proxy: bool = False


POOL: Final = Cause(
    "no connection of the client's own pool was free in time", was_asked=False, is_transient=True
)
CERTIFICATE: Final = Cause("the certificate is not trusted", was_asked=True, is_transient=False)
HANDSHAKE: Final = Cause(
    "the other side refused the TLS handshake: a client certificate, a version or a cipher",
    was_asked=True,
    is_transient=False,
)


def _of_socks(told: str) -> Cause:
    return Cause(told, was_asked=True, is_transient=False, is_of_proxy=True)


SOCKS_PASSWORD: Final = _of_socks("the proxy refused the user name or the password")
_SOCKS_METHOD: Final = _of_socks("the proxy and the client authenticate in different ways")
_SOCKS_RULES: Final = _of_socks("the proxy does not connect to this host")
_POOLS: Final = frozenset({"PoolTimeout", "EmptyPoolError", "FullPoolError"})
_UNTRUSTED: Final = "SSLCertVerificationError"
"""Names of exceptions. Source: the standard library, httpcore and urllib3."""

_VERIFY_FAILED: Final = pattern("certificate.verify.failed", re.IGNORECASE)  # pyOpenSSL's too
_HANDSHAKE_REFUSED: Final = pattern(
    r"alert.(?:handshake.failure|protocol.version|insufficient.security|access.denied|unknown.ca"
    r"|bad.certificate|unsupported.certificate"
    r"|certificate.(?:required|revoked|expired|unknown)|no.application.protocol)\b"
    r"|unrecognized.name\b",
    re.IGNORECASE,
)
"""The alerts of TLS by which a peer says that its settings and the client's do not agree. Source:
RFC 8446, 6.2; RFC 7301, 3.2; the names are OpenSSL's."""

# Source: `HTTPAdapter.cert_verify` of requests.
_NOT_THERE: Final = pattern(r"Could not find .*\bTLS\b.*, invalid path: (.*)", re.DOTALL)
_REFUSED: Final = pattern(r"([1-9]\d\d)\b")
_TUNNEL: Final = pattern(r"Tunnel connection failed: ([1-9]\d\d)\b")
_STATUS_BY_NAME: Final = {
    "ProxyError": _REFUSED,
    "ClientHttpProxyError": _REFUSED,
    "OSError": _TUNNEL,
}
"""The status with which a proxy has refused a CONNECT, in the text of the exception of that name.
Source: httpcore; aiohttp; `http.client` of the standard library, inside urllib3's."""

_SOCKS_ERRORS: Final = frozenset({"ProxyError", "SOCKS5AuthError", "NewConnectionError"})
_SOCKS_REFUSALS: Final = (
    (
        pattern(
            "Invalid username/password|SOCKS5 authentication failed"
            "|Username and password authentication failure"
        ),
        SOCKS_PASSWORD,
    ),
    (
        pattern(
            "Requested [A-Z/ ]+ from proxy server, but got |No username/password supplied"
            "|All offered SOCKS5 authentication methods|No acceptable authentication methods"
            "|Unexpected SOCKS authentication method"
        ),
        _SOCKS_METHOD,
    ),
    (
        pattern("not allowed by ruleset|Command not supported|Address type not supported"),
        _SOCKS_RULES,
    ),
)
"""The exceptions of a SOCKS proxy's refusal, and their texts. Source: httpcore; PySocks;
python-socks, which aiohttp-socks is made of. urllib3 puts the text of PySocks into an exception of
its own. Other refusals, as of a host that is unreachable, may be over soon."""

_TEXT_ALONE: Final = "network_error"
"""The type that the `assisters` SDK gives an exception of which it keeps only the text."""

_MAX: Final = 20
"""The number of exceptions that are searched. A chain may be a ring, or very long."""


@fail_safe
def of(error: BaseException) -> Cause | None:
    """Return the cause of an exception, from its chain and its arguments, or None.

    Contexts do not count: one may be what the app was handling when it sent the request, another
    attempt's failure (test_what_the_app_was_handling_is_not_the_cause).
    """
    for one in _chain_of(error):
        name, text = type(one).__name__, ""
        if name in _POOLS:
            return POOL
        if name == _UNTRUSTED:
            return CERTIFICATE
        if (refused := _of_proxy(one)) is not None:
            return refused
        is_text = getattr(one, "type", None) == _TEXT_ALONE
        if "SSL" in name or type(one) is OSError or is_text:
            text = _own_text(one)
        if ("SSL" in name or is_text) and (refused := _of_tls(text)) is not None:
            return refused
        if (missing := _of_file(text)) is not None:
            return missing
    return None


def of_text(name: str, text: str) -> Cause | None:
    """Return the cause that an exception's name and text show, or None.

    It is for an exception that another process has written to a span. Its chain is not there, but
    its text may quote it: httpx and urllib3 put the text of a cause into their own exception.

    Args:
        name: The name of its class.
        text: Its text.
    """
    if name in _POOLS:
        return POOL
    if name == _UNTRUSTED:
        return CERTIFICATE
    if (of_tls := _of_tls(text)) is not None:
        return of_tls
    pattern_of = _STATUS_BY_NAME.get(name)
    refused = (pattern_of and pattern_of.match(text)) or _TUNNEL.search(text)
    if refused:
        return _of_proxy_status(int(refused[1]))
    return _of_socks_text(text) or _of_file(text)


def _of_tls(text: str) -> Cause | None:
    if _VERIFY_FAILED.search(text):
        return CERTIFICATE
    return HANDSHAKE if _HANDSHAKE_REFUSED.search(text) else None


def _of_socks_text(text: str) -> Cause | None:
    return next((cause for of, cause in _SOCKS_REFUSALS if of.search(text)), None)


def _of_file(text: str) -> Cause | None:
    found = _NOT_THERE.search(text)
    if found is None:
        return None
    told = f"a file for TLS is not there: {redaction.clean(found[1])}"
    return Cause(told, was_asked=False, is_transient=False)


def _of_proxy_status(status: int) -> Cause:
    told = f"the proxy answered {status} in place of connecting"
    is_transient = catalog.retryable(None, None, status)
    return Cause(told, was_asked=True, is_transient=is_transient, is_of_proxy=True)


def _of_proxy(error: BaseException) -> Cause | None:
    if (status := proxy_status(error)) is not None:
        return _of_proxy_status(status)
    return _of_socks_text(_own_text(error)) if type(error).__name__ in _SOCKS_ERRORS else None


def _own_text(error: BaseException) -> str:
    """Return the text of an exception, or none if it is made of another one's.

    That of requests quotes the URL as well, and a query may say what a cause says.
    """
    return "" if any(isinstance(one, BaseException) for one in error.args) else str(error)


def proxy_status(error: BaseException) -> int | None:
    """Return the status with which a proxy has refused a CONNECT, or None."""
    pattern_of = _STATUS_BY_NAME.get(type(error).__name__)
    found = None if pattern_of is None else pattern_of.match(str(error))
    return None if found is None else int(found[1])


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its explicit causes, and the exceptions in their arguments."""
    left: list[object] = [error]
    searched: set[int] = set()
    while left and len(searched) < _MAX:
        one = left.pop(0)
        if not isinstance(one, BaseException) or id(one) in searched:
            continue
        searched.add(id(one))
        yield one
        left += [one.__cause__, *one.args, getattr(one, "reason", None)]


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


_UNWRAPPED: Final = frozenset({"aiohttp_socks", "h2", "python_socks", "socksio"})
"""The packages whose exceptions reach the app as they are, of a connection that has failed. Older
versions of aiohttp-socks raise those of python-socks."""

_LOCAL: Final = "LocalProtocolError"
"""The exception of httpcore and httpx for what h2 raises, whichever side is to blame."""


@fail_safe
def is_of_connection(error: BaseException) -> bool:
    """Return True if a connection has failed, and the exception's class does not say so.

    It is that of a package that the client is made of. A retry helps, unless `of` finds a cause.
    """
    is_hidden = type(error).__name__ == _LOCAL
    return any(map(_is_of_unwrapped, _chain_of(error) if is_hidden else (error,)))


def _is_of_unwrapped(error: BaseException) -> bool:
    kind = type(error)
    if str(kind.__module__).partition(".")[0] not in _UNWRAPPED:
        return False
    # Here h2 refuses the app's own headers. All else is of what the peer has sent, or has closed.
    return kind.__name__ != "ProtocolError" or _raised_in(error) != "h2.utilities"


def _raised_in(error: BaseException) -> str | None:
    """Return the name of the module in which an exception was raised, or None."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")
