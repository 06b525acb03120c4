"""Kinds of values: whole numbers, durations, names, lists of names, headers.

A function that returns a `Rule` makes the rule of one kind. A function whose name begins with
``read_`` is the `Rule.read` of one kind: it returns the right part of a value, or None.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

# Like that of importlib.metadata, but cached: it reads the disk once.
from opentelemetry.util._importlib_metadata import entry_points

from assisters_otel.api.patterns import pattern
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


_MAX_WHOLE: Final = 2**31 - 1
"""Larger than any useful limit. For one that does not fit an index, the SDK raises at each span."""


class Rule(Record):
    """The right values of one variable.

    Attributes:
        read: Returns the text to read in place of a value. It is the same text if that is right,
            else its right part, or None to read the variable as not set.
        default: The value that OpenTelemetry uses if the variable is not set, for the message.
        write: Returns a description of the right values, for the message.
        signals: The signals that the variable configures. Empty if it is read whatever is exported.
        is_secret: True if the value may contain a key.
    """

    read: Callable[[str], str | None]
    default: str
    write: Callable[[], str]
    signals: Collection[str] = ()
    is_secret: bool = False


_HEADER: Final = pattern(
    r"[\w!#$%&'*+.^`|~-]+[ \t]*=[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", re.ASCII
)
"""One header, ``name=value``. Source: the pattern of `opentelemetry.util.re`."""


_METHOD: Final = pattern(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
"""An HTTP method. Source: RFC 9110, sections 9.1 and 5.6.2."""


def whole_number(least: int, default: str, *signals: str, empty_is_right: bool = False) -> Rule:
    """Return the rule of a whole number, *least* or more."""

    def read(text: str) -> str | None:
        if empty_is_right and not text.strip():
            return text
        try:
            return text if least <= int(text) <= _MAX_WHOLE else None
        except ValueError:
            return None

    return Rule(read, default, lambda: f"a whole number from {least} to {_MAX_WHOLE}", signals)


def duration(
    most: float, unit: str, default: str, *signals: str, may_be_endless: bool = False
) -> Rule:
    """Return the rule of a duration above 0 and up to *most*, or endless if it may be."""

    def read(text: str) -> str | None:
        try:
            number = float(text)
        except ValueError:
            return None
        if 0 < number <= most or (may_be_endless and number == math.inf):
            return text
        return None

    return Rule(read, default, lambda: f"a number of {unit} above 0", signals)


def read_ratio(text: str) -> str | None:
    """Return a number from 0 to 1 as it is, else None."""
    try:
        return text if 0 <= float(text) <= 1 else None
    except ValueError:
        return None


def one_of(default: str, *known: str, signals: Collection[str] = ()) -> Rule:
    """Return the rule of one name out of *known*. Case and blanks are corrected.

    OpenTelemetry compares some of these values as they are written.
    """

    def read(text: str) -> str | None:
        name = text.strip().lower()
        return name if name in known else None

    return Rule(read, default, lambda: f"one of {', '.join(known)}", signals)


def registered(default: str, group: str, *signals: str) -> Rule:
    """Return the rule of the name of an entry point in *group*."""

    def read(text: str) -> str | None:
        name = text.strip()
        return name if name in entry_points(group=group).names else None

    def write() -> str:
        known = sorted(entry_points(group=group).names)
        return f"one of {', '.join(known)}" if known else "nothing, for no package brings any"

    return Rule(read, default, write, signals)


def several(
    default: str, known: Callable[[], Collection[str]], *signals: str, upper: bool = False
) -> Rule:
    """Return the rule of a list of names out of *known*, with commas between them."""

    def read(text: str) -> str | None:
        names = [name.upper() if upper else name for name in members(text)]
        return ",".join(name for name in names if name in known()) or None

    return Rule(read, default, lambda: f"some of {', '.join(sorted(known()))}", signals)


def propagators() -> Collection[str]:
    """Return the names of the installed propagators."""
    return {"none", *entry_points(group="opentelemetry_propagator").names}


def detectors() -> Collection[str]:
    """Return the names of the installed resource detectors."""
    return {"*", "otel", *entry_points(group="opentelemetry_resource_detector").names}


def grpc_codes() -> Collection[str]:
    """Return the names of the status codes of gRPC."""
    # Source: gRPC, "Status codes and their use in gRPC".
    return {
        "ABORTED", "ALREADY_EXISTS", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "OK", "OUT_OF_RANGE",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE",
        "UNIMPLEMENTED", "UNKNOWN",
    }  # fmt: skip


def read_patterns(text: str) -> str | None:
    """Keep the patterns that compile together with those before them. OpenTelemetry joins all."""
    kept: list[str] = []
    for member in members(text):
        # A warning is raised if the app has made warnings errors.
        with suppress(re.error, RecursionError, OverflowError, Warning):
            re.compile("|".join((*kept, member)))
            kept.append(member)
    return ",".join(kept) or None


def read_methods(text: str) -> str | None:
    """Keep the HTTP methods. No client sends any other word."""
    return ",".join(filter(_METHOD.fullmatch, members(text))) or None


def read_pairs(text: str) -> str | None:
    """Keep the pairs ``key=value`` that can be encoded. Any other one would lose whole batches."""
    parts = (item.partition("=") for item in members(text))
    kept = (key + sign + value for key, sign, value in parts if sign and key.strip())
    return ",".join(filter(_is_encodable, kept)) or None


def read_headers(text: str) -> str | None:
    """Keep the headers that can be sent. OpenTelemetry would log any other one with its value."""

    def may_be_sent(item: str) -> bool:
        value = unquote(item.partition("=")[2]).strip()
        is_header = _HEADER.fullmatch(item) is not None
        return is_header and value.isascii() and value.isprintable()

    items = members(text)
    kept = list(filter(may_be_sent, items))
    return text if kept == items else ",".join(kept) or None


def read_encodable(text: str) -> str | None:
    """Return a text that UTF-8 can encode, with ``?`` for each character that it cannot."""
    return text if _is_encodable(text) else text.encode(errors="replace").decode()


def _is_encodable(text: str) -> bool:
    with suppress(UnicodeEncodeError):
        return bool(text.encode())
    return False


def members(text: str) -> list[str]:
    """Return the members of a list with commas, without blanks around them and empty ones."""
    return [name for name in map(str.strip, text.split(",")) if name]
