"""The hosts whose requests are watched, from the arguments of `init` and from the environment.

A host is written in many ways: by its Unicode name or as ``xn--…``, in any case, with a last dot.
`Host.name` has one form for all of them. `Host.spellings` lists the names that a client may use, so
that a request's host is looked up without converting its name.
"""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from assisters_otel.api.patterns import pattern
from assisters_otel.api.redaction import shown
from assisters_otel.records import Record
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType


class Host(Record):
    """A host whose requests are watched.

    Attributes:
        name: The name in lower case, in Unicode and not as ``xn--…``, without a last dot. An IPv6
            address has no brackets.
        port: The port, or None for every port.
        prefix: The start of the path without its last slash, ``/api/v1``. An empty string stands
            for every path.
    """

    name: str
    port: int | None = None
    prefix: str = ""

    def covers(self, port: int, path: str) -> bool:
        """Return True if a request to this name, at *port* and *path*, is watched."""
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
        """Return the names that clients use: in Unicode or as in DNS, with a last dot or not."""
        both = dict.fromkeys((self.name, _ascii(self.name)))
        return *both, *(f"{name}." for name in both)


DEFAULT_HOSTS: Final = (Host("api.assisters.dev"), Host("assisters.dev", prefix="/api/v1"))
"""The hosts of the API. The rest of ``assisters.dev`` is a web site."""

# A user may write a name in Unicode, so a label may have letters and combining marks of any script.
# Docker's service names may have an underscore.
_LABEL: Final = r"(?:[A-Za-z0-9_-]|[^\x00-\x7f])+"
_NAME: Final = pattern(rf"{_LABEL}(?:\.{_LABEL})*\.?")
# The start of a URL without its colon, without a slash, or with nothing behind it.
_SCHEME_CUT: Final = pattern(r"https?(?::(?:/(?!/)|(?![/\d]))|/|$)", re.IGNORECASE)
_IPV6: Final = 6


def host(text: str) -> Host:
    """Parse ``host[:port][/path-prefix]`` or a base URL.

    Args:
        text: The text, for example ``gateway.example:8080/assisters`` or
            ``http://127.0.0.1:8080/v1``.

    Raises:
        ValueError: *text* is neither. The message shows what to write.
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
    if ":" in name:  # before Python 3.12, urlsplit accepts any text in brackets
        with suppress(ValueError):
            return ip_address(name).version == _IPV6
        return False
    return _NAME.fullmatch(name) is not None


def may_hold_password(parts: SplitResult) -> bool:
    """Return True if the text after a URL's host may be the rest of a password.

    A slash, a question mark or a number sign in a password ends the host. The path ``/@org`` is no
    password.
    """
    return "@" in parts.path.partition("/@")[0] + parts.query + parts.fragment


def _canonical(name: str) -> str:
    """Return a name in lower case and Unicode: ``xn--bcher-kva.example.`` is bücher.example."""
    name = _ascii(name).rstrip(".")
    if "xn--" not in name:
        return name
    idna = _idna()
    with suppress(UnicodeError):
        return str(idna.decode(name)) if idna else name.encode("ascii").decode("idna")
    return name


def _ascii(name: str) -> str:
    """Return a name as requests and aiohttp send it."""
    if name.isascii():
        return name
    idna = _idna()
    with suppress(UnicodeError):
        if idna:
            return str(idna.encode(name, uts46=True).decode("ascii"))
    with suppress(UnicodeError):  # aiohttp sends a name that IDNA 2008 refuses in the older form
        return name.encode("idna").decode("ascii")
    return name


def _idna() -> ModuleType | None:
    """Return the package that converts names, or None. Every client depends on it."""
    with suppress(ImportError):
        return importlib.import_module("idna")  # takes 20 ms; a name in ASCII does not need it
    return None


def argument_host(text: object) -> Host:
    """Parse one member of the argument *hosts* of `init`.

    Raises:
        ValueError: It is no text, or no host.
    """
    if not isinstance(text, str):
        raise ValueError(f"hosts holds text, not {type(text).__name__}. Write 'gateway.example'")
    return host(text)


def distinct(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Return each host once, in the order of its first occurrence."""
    return tuple(dict.fromkeys(hosts))


def environment_hosts(environ: Mapping[str, str]) -> tuple[tuple[Host, ...], tuple[str, ...]]:
    """Return the hosts that the environment adds, and a message for each entry that is no host.

    A message names the variable and shows what to write.
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
    return distinct(found), tuple(wrong)


def _host_or_error(text: str) -> Host | ValueError:
    try:
        return host(text)
    except ValueError as error:
        return error
