"""Which hosts are watched."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from assisters_otel.api.redaction import shown
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType


class Host(NamedTuple):
    """A host whose requests we watch.

    Attributes:
        name: In one form, whichever was written: in lower case, as people read it and not
            ``xn--…``, without a last dot; an IPv6 address without its brackets.
        port: A port, or None for every port.
        prefix: A path without its last slash, ``/api/v1``, or an empty string for
            every path.
    """

    name: str
    port: int | None = None
    prefix: str = ""

    def covers(self, port: int, path: str) -> bool:
        """Say whether a request to this name, at *port* and *path*, is one we watch."""
        if self.port is not None and self.port != port:
            return False
        if not self.prefix or path == self.prefix:
            return True
        return path.startswith(self.prefix + "/")

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        port = "" if self.port is None else f":{self.port}"
        return f"{name}{port}{self.prefix}"

    def spellings(self) -> tuple[str, ...]:
        """Return the names that clients have for this host: as it is read, as DNS has it."""
        both = dict.fromkeys((self.name, _ascii(self.name)))
        return *both, *(f"{name}." for name in both)


DEFAULT_HOSTS: Final = (Host("api.assisters.dev"), Host("assisters.dev", prefix="/api/v1"))
"""Where the API is. The rest of ``assisters.dev`` is a web site."""

# In any script, combining marks and all: a name may be given as people read it. With an underscore,
# as in Docker's.
_LABEL: Final = r"(?:[A-Za-z0-9_-]|[^\x00-\x7f])+"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
# The start of a URL that has lost its colon or a slash, or all that follows.
_SCHEME_CUT: Final = re.compile(r"https?(?::(?:/(?!/)|(?![/\d]))|/|$)", re.IGNORECASE)
_IPV6: Final = 6


def host(text: str) -> Host:
    """Read ``host[:port][/path-prefix]`` or a base URL.

    Args:
        text: For example ``gateway.example:8080/assisters`` or ``http://127.0.0.1:8080/v1``.

    Raises:
        ValueError: It is neither; the message says what to write.
    """
    stripped = text.strip()
    try:
        parts = urlsplit(stripped if "://" in stripped else f"//{stripped}")
        name, port = parts.hostname, parts.port
        odd = parts.query or parts.fragment or parts.username is not None
        odd = odd or parts.scheme not in {"", "http", "https"} or may_hold_password(parts)
        odd = odd or "://" in parts.path or _SCHEME_CUT.match(stripped) is not None
    except ValueError:
        name = None
    if not name or odd or any(map(str.isspace, stripped)) or not _is_name(name):
        raise ValueError(
            f"not a host: {shown(text)}. Write host[:port][/path-prefix], for example "
            "'gateway.example:8080/assisters', or a base URL, 'http://127.0.0.1:8080/v1', "
            "one to an entry"
        )
    return Host(_canonical(name), port, parts.path.rstrip("/"))


def _is_name(name: str) -> bool:
    if ":" in name:  # urlsplit takes anything between brackets, before Python 3.12
        with suppress(ValueError):
            return ip_address(name).version == _IPV6
        return False
    return _NAME.fullmatch(name) is not None


def may_hold_password(parts: SplitResult) -> bool:
    """Say whether what follows a URL's host may be the rest of a password.

    One with a slash, a question mark or a number sign ends the host. ``/@org`` is a path indeed.
    """
    return "@" in parts.path.partition("/@")[0] + parts.query + parts.fragment


def _canonical(name: str) -> str:
    """Give the one form of a name, in lower case: ``xn--bcher-kva.example.`` is bücher.example."""
    name = _ascii(name).rstrip(".")
    if "xn--" not in name:
        return name
    idna = _idna()
    with suppress(UnicodeError):
        return str(idna.decode(name)) if idna else name.encode("ascii").decode("idna")
    return name


def _ascii(name: str) -> str:
    """Return the form that goes over the wire, as requests and aiohttp write it."""
    if name.isascii():
        return name
    idna = _idna()
    with suppress(UnicodeError):
        if idna:
            return str(idna.encode(name, uts46=True).decode("ascii"))
    with suppress(UnicodeError):  # what IDNA 2008 refuses, aiohttp sends in the older form
        return name.encode("idna").decode("ascii")
    return name


def _idna() -> ModuleType | None:
    """Return the package by which the clients convert names; all of them bring it."""
    with suppress(ImportError):
        return importlib.import_module("idna")  # takes 20 ms, and only such a name needs it
    return None


def _argument_host(text: object) -> Host:
    if not isinstance(text, str):
        raise ValueError(f"hosts holds text, not {type(text).__name__}. Write 'gateway.example'")
    return host(text)


def _distinct(hosts: Iterable[Host]) -> tuple[Host, ...]:
    return tuple(dict.fromkeys(hosts))


def environment_hosts(environ: Mapping[str, str]) -> tuple[tuple[Host, ...], tuple[str, ...]]:
    """Read the hosts that the environment adds.

    Returns:
        The hosts, and for each entry that is none what is wrong and what to write.
    """
    texts = [(environment.ASSISTERS_BASE_URL, environ.get(environment.ASSISTERS_BASE_URL, ""))]
    listed = environ.get(environment.ASSISTERS_OTEL_HOSTS, "").split(",")
    texts += [(environment.ASSISTERS_OTEL_HOSTS, text) for text in listed]
    found, wrong = [], []
    for variable, text in texts:
        if text.strip():
            read = _host_or_error(text)
            if isinstance(read, Host):
                found.append(read)
            else:
                wrong.append(f"{variable}: {read}")
    return _distinct(found), tuple(wrong)


def _host_or_error(text: str) -> Host | ValueError:
    try:
        return host(text)
    except ValueError as error:
        return error
