"""What a variable may hold: whole numbers, durations, names, lists of them."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

# As importlib.metadata's, but read from disk once.
from opentelemetry.util._importlib_metadata import entry_points

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


_MAX_WHOLE: Final = 2**31 - 1
"""More than any limit is for. The SDK raises for one that is no index, at every span."""


class Rule(NamedTuple):
    """What one variable may hold.

    Attributes:
        read: Gives what is to be read in place of a text: the same if it is right, another if a
            part of it is, None for as if the variable were not set.
        default: What OpenTelemetry takes if the variable is not set.
        write: Says what is right.
        signals: What the variable is for; empty if it is read whatever we export.
        is_secret: True if the value may hold a key.
    """

    read: Callable[[str], str | None]
    default: str
    write: Callable[[], str]
    signals: Collection[str] = ()
    is_secret: bool = False


_HEADER: Final = re.compile(
    r"[\w!#$%&'*+.^`|~-]+[ \t]*=[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", re.ASCII
)
"""Source: what `opentelemetry.util.re` takes for one."""


def _whole(least: int, default: str, *signals: str, empty_is_right: bool = False) -> Rule:
    def read(text: str) -> str | None:
        if empty_is_right and not text.strip():
            return text
        try:
            return text if least <= int(text) <= _MAX_WHOLE else None
        except ValueError:
            return None

    return Rule(read, default, lambda: f"a whole number from {least} to {_MAX_WHOLE}", signals)


def _duration(
    most: float, unit: str, default: str, *signals: str, may_be_endless: bool = False
) -> Rule:
    def read(text: str) -> str | None:
        try:
            number = float(text)
        except ValueError:
            return None
        if 0 < number <= most or (may_be_endless and number == math.inf):
            return text
        return None

    return Rule(read, default, lambda: f"a number of {unit} above 0", signals)


def _ratio(text: str) -> str | None:
    try:
        return text if 0 <= float(text) <= 1 else None
    except ValueError:
        return None


def _one_of(default: str, *known: str, signals: Collection[str] = ()) -> Rule:
    """What OpenTelemetry compares as it is written, or in one case of letters."""

    def read(text: str) -> str | None:
        name = text.strip().lower()
        return name if name in known else None

    return Rule(read, default, lambda: f"one of {', '.join(known)}", signals)


def _registered(default: str, group: str, *signals: str) -> Rule:
    def read(text: str) -> str | None:
        name = text.strip()
        return name if name in entry_points(group=group).names else None

    def write() -> str:
        known = sorted(entry_points(group=group).names)
        return f"one of {', '.join(known)}" if known else "nothing, for no package brings any"

    return Rule(read, default, write, signals)


def _several(
    default: str, known: Callable[[], Collection[str]], *signals: str, upper: bool = False
) -> Rule:
    def read(text: str) -> str | None:
        names = [name.upper() if upper else name for name in _members(text)]
        return ",".join(name for name in names if name in known()) or None

    return Rule(read, default, lambda: f"some of {', '.join(sorted(known()))}", signals)


def _propagators() -> Collection[str]:
    return {"none", *entry_points(group="opentelemetry_propagator").names}


def _detectors() -> Collection[str]:
    return {"*", "otel", *entry_points(group="opentelemetry_resource_detector").names}


def _grpc_codes() -> Collection[str]:
    # Source: gRPC, "Status codes and their use in gRPC".
    return {
        "ABORTED", "ALREADY_EXISTS", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "OK", "OUT_OF_RANGE",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE",
        "UNIMPLEMENTED", "UNKNOWN",
    }  # fmt: skip


def _patterns(text: str) -> str | None:
    """Keep those that are regular expressions, alone and behind those before, as they are read."""
    kept: list[str] = []
    for pattern in _members(text):
        with suppress(re.error, RecursionError, OverflowError):
            re.compile("|".join((*kept, pattern)))
            kept.append(pattern)
    return ",".join(kept) or None


def _pairs(text: str) -> str | None:
    """Keep ``key=value`` that can be encoded: one that cannot loses whole batches."""
    parts = (item.partition("=") for item in _members(text))
    kept = (key + sign + value for key, sign, value in parts if sign and key.strip())
    return ",".join(filter(_is_encodable, kept)) or None


def _headers(text: str) -> str | None:
    """Leave out what is no header, which OpenTelemetry would log whole, or cannot be sent."""

    def may_be_sent(item: str) -> bool:
        value = unquote(item.partition("=")[2]).strip()
        is_header = _HEADER.fullmatch(item) is not None
        return is_header and value.isascii() and value.isprintable()

    items = _members(text)
    kept = list(filter(may_be_sent, items))
    return text if kept == items else ",".join(kept) or None


def _encodable(text: str) -> str | None:
    return text if _is_encodable(text) else text.encode(errors="replace").decode()


def _is_encodable(text: str) -> bool:
    with suppress(UnicodeEncodeError):
        return bool(text.encode())
    return False


def _members(text: str) -> list[str]:
    return [name for name in map(str.strip, text.split(",")) if name]
