"""The class of an exception: whose it is, and whether the network is to blame for it.

Classes are compared by name and package, so that no client is imported. A name alone is not enough:
a database's client has a ``ConnectionError`` as well. Neither is OSError: it is that of a file too.
"""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Final

from assisters_otel.causes import FILE_ERRORS, is_of_connection
from assisters_otel.explanation.app_objects import (
    attribute,
    is_made_up,
    raising_module,
    status_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENTS: Final = frozenset(
    {
        *("aiohttp", "aiohttp_socks", "assisters", "h11", "h2", "httpcore", "httpcore2", "httpx"),
        *("httpx2", "openai", "requests", "socksio", "urllib3"),
    }
)
"""The packages of the clients, and of what they raise exceptions of."""

NO_ANSWER: Final = "network_error"
"""The type that the `assisters` SDK invents where there was no answer."""

TOO_MANY_REDIRECTS: Final = "TooManyRedirects"
"""The class name of a circle of redirects, the same in httpx, requests and aiohttp."""

_NETWORK_ERRORS: Final = frozenset(
    {
        *("TimeoutError", "TransportError", "APIConnectionError", "ConnectionError", "Timeout"),
        *("ChunkedEncodingError", "ClientConnectionError", "ClientHttpProxyError"),
        "ClientPayloadError",
    }
)
"""Class names of exceptions for which the network is to blame, also in the middle of a body.

Source: the exceptions of httpx, the SDKs, requests, urllib3 and aiohttp.
"""

_CALLER_ERRORS: Final = frozenset({"UnsupportedProtocol", "LocalProtocolError", TOO_MANY_REDIRECTS})
"""Class names of exceptions for which the app is to blame, though they are causes of others."""

_MAY_HIDE_FILES: Final = frozenset({"ConnectionError", "ClientConnectionError", "ClientOSError"})
"""Class names of exceptions that requests and aiohttp also raise for a file that the app sends."""

_UNDECODABLE: Final = frozenset(
    {"DecodingError", "ContentDecodingError", "DecodeError", "ContentEncodingError"}
)
"""Class names of exceptions for a body that is not encoded as its headers say, also as causes.

Source: httpx, requests, urllib3 and aiohttp.
"""

_AFTER_ANSWER: Final = frozenset(
    {
        *("JSONDecodeError", "StreamError", "StreamConsumedError"),
        *("APIResponseValidationError", *_UNDECODABLE),
        *("LengthFinishReasonError", "ContentFilterFinishReasonError"),
    }
)
"""Class names of exceptions that are raised only when an answer has come.

Source: the exceptions of requests, httpx and openai.
"""

_BUILTIN_NETWORK_ERRORS: Final = frozenset({"TimeoutError", "gaierror", "herror", "SSLError"})
"""Class names of the standard library. That of asyncio is no builtin one in Python 3.10."""

_TIME_LIMITS: Final = frozenset({"anyio", "async_timeout", "asyncio"})
"""The packages that raise a TimeoutError for a time limit of the app's. A client that has such a
limit inside raises an exception of its own for it, or raises from its own module."""

_UNREACHABLE: Final = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
)
"""The numbers of an OSError that has no class of its own, and is that of a socket."""


def is_of_client(error: BaseException) -> bool:
    """Return True if an exception is of a client's class."""
    return bool(_client_names(error))


def is_of_client_or_python(error: BaseException) -> bool:
    """Return True if an exception is of a client's class, or of the standard library's."""
    return is_of_client(error) or _is_of_python(error)


def has_invented_answer(error: BaseException) -> bool:
    """Return True if a wrapper of `openai` has given its exception a status that no answer had.

    litellm does, whatever happened: 500 for a page in place of the result, 408 for no answer, 400
    for what it did not send. It derives its classes from those of `openai`. Those themselves are
    left alone, since an app's tests raise them with responses of their own.
    """
    own, *bases = type(error).__mro__
    is_derived = any(_package(kind) == "openai" and kind.__name__ == "APIError" for kind in bases)
    if not is_derived or _package(own) in CLIENTS:
        return False
    response = attribute(error, "response")
    return status_of(error) is not None if response is None else is_made_up(response)


def is_after_answer(error: BaseException) -> bool:
    """Return True if a client raises exceptions of that class only when an answer has come."""
    names = _client_names(error)
    # `openai` raises its base class itself for an error event of a stream.
    is_event = "APIError" in names and "APIConnectionError" not in names
    return is_event or not names.isdisjoint(_AFTER_ANSWER)


def is_undecodable(chain: Sequence[BaseException]) -> bool:
    """Return True if a client could not decode the body of an answer."""
    return any(not _client_names(one).isdisjoint(_UNDECODABLE) for one in chain)


def is_circle_of_redirects(chain: Sequence[BaseException]) -> bool:
    """Return True if a client has followed as many redirects as it may."""
    return any(TOO_MANY_REDIRECTS in _client_names(one) for one in chain)


def is_given_up(error: BaseException) -> bool:
    """Return True if the app has cancelled a task, or its own time limit has."""
    if not _is_of_python(error):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutError" in names and attribute(error, "errno") is None:  # else it is a socket's
        return str(raising_module(error)).partition(".")[0] in _TIME_LIMITS
    return "CancelledError" in names


def is_network_error(chain: Sequence[BaseException]) -> bool:
    """Return True if the network is to blame for the first exception of a chain of causes.

    An exception of Python's own counts if it is the first, or if a client's stands in the chain.
    """
    names = [_client_names(one) for one in chain]
    found = frozenset[str]().union(*names)
    if found and any(attribute(one, "type") == NO_ANSWER for one in chain if is_of_client(one)):
        return True
    if any(map(is_of_connection, filter(is_of_client, chain))):
        return True
    if not found.isdisjoint(_CALLER_ERRORS | _UNDECODABLE):
        return False
    if names and not names[0].isdisjoint(_MAY_HIDE_FILES) and _has_file_error(chain):
        return False
    of_python = chain if found else chain[:1]
    return not found.isdisjoint(_NETWORK_ERRORS) or any(map(_is_pythons_network_error, of_python))


def _client_names(error: BaseException) -> frozenset[str]:
    """Return the names of an exception's classes that are a client's."""
    return frozenset(kind.__name__ for kind in type(error).__mro__ if _package(kind) in CLIENTS)


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _is_of_python(error: BaseException) -> bool:
    return _package(type(error)) in sys.stdlib_module_names


def _is_pythons_network_error(error: BaseException) -> bool:
    if not _is_of_python(error):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    is_unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    is_named = not names.isdisjoint(_BUILTIN_NETWORK_ERRORS)
    return isinstance(error, ConnectionError) or is_named or is_unreachable


def _has_file_error(chain: Sequence[BaseException]) -> bool:
    """Return True if a file's OSError is among the exceptions, or in the arguments of one."""
    return any(
        isinstance(one, FILE_ERRORS) for error in chain for one in (error, *_arguments(error))
    )


def _arguments(error: BaseException) -> tuple[object, ...]:
    arguments = attribute(error, "args")
    return arguments if isinstance(arguments, tuple) else ()
