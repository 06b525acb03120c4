"""Checks the arguments of an answer of the script: the ValueError says what to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from json import dumps
from typing import Final, get_args

from assisters_otel import catalog
from assisters_otel.testing.answers import Fault

FAULTS: Final = get_args(Fault)
FIRST_FINAL, LAST = 200, 599
"""The statuses that an answer can have."""
_FOREVER_S: Final = 1_000_000.0
"""Longer than any test lasts. The clocks of the event loop take no infinity."""
# Source: RFC 9110, section 5.1 and 5.5, as h11 has them.
_HEADER_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(
    r"(?:[^\x00\s\u0100-\U0010ffff]+(?:[ \t]+[^\x00\s\u0100-\U0010ffff]+)*)?", re.ASCII
)


def check_texts(*, codes: Sequence[object], others: Mapping[str, object]) -> None:
    """Raise ValueError if a code, or one of *others*, is no text."""
    wrong = next((code for code in codes if not isinstance(code, str)), None)
    if isinstance(wrong, int) and wrong in range(FIRST_FINAL, LAST + 1):
        raise ValueError(f"a code is text, not {wrong!r}: write status={wrong}")
    if wrong is not None:
        raise ValueError(f"a code is text, not {wrong!r}: write answers('internal_error', 'ok')")
    for name, value in others.items():
        if not isinstance(value, str | None):
            raise ValueError(f"{name} is text, not {value!r}: write {name}='…'")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise ValueError if *value* is no whole number from *least* to *most*."""
    if value is None and name == "status":
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is a number, not {value!r}: write {name}={least or 2}")
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"a number from {least} to {most}"
        raise ValueError(f"{name}={value!r} is none: write {name}={limits}")


def check_seconds(name: str, value: object, otherwise: str) -> None:
    """Raise ValueError if *value* is no time; *otherwise* is what to write for none."""
    if value is None and name == "retry_after":
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} is a number, not {value!r}: write {name}=2")
    if not 0 <= value < _FOREVER_S:
        raise ValueError(f"{name}={value!r} is no time: write {name}=2, or {otherwise}")


def check_flags(flags: Mapping[str, object]) -> None:
    """Raise ValueError if one of *flags* is no boolean."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name} is a switch, not {flag!r}: write {name}=True")


def check_body(body: object, json: object) -> None:
    """Raise ValueError if *body* is no body, or *json* is nothing that JSON has."""
    if not isinstance(body, bytes | str | None) and not (
        isinstance(body, Sequence) and all(isinstance(part, bytes) for part in body)
    ):
        raise ValueError(f"body is text, bytes or a list of bytes, not {body!r}: write body='…'")
    try:
        dumps(json)
    except (TypeError, ValueError) as error:
        raise ValueError(f"json= cannot be sent: {error}. Write what JSON has, or body=") from error


def check_headers(headers: object) -> None:
    """Raise ValueError if *headers* maps no names to values."""
    if headers is None:
        return
    if not isinstance(headers, Mapping) or not all(isinstance(name, str) for name in headers):
        raise ValueError(f"headers maps names to values, not {headers!r}: write {{'x-odd': '1'}}")


def check_sent(headers: Mapping[str, str | None]) -> None:
    """Raise ValueError if one of *headers* cannot be sent."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value or ""):
            raise ValueError(
                f"no header can be sent as {name!r}: {value!r}: write it in Latin-1, in one line; "
                "for what is no HTTP, fault='garbage'"
            )


def near(code: str | None) -> str:
    """Return a hint at the code that is spelt most alike, or an empty text."""
    alike = get_close_matches(code or "", ["ok", *(row.code for row in catalog.ERRORS)], n=1)
    return f"did you mean {alike[0]!r}? Else " if alike else ""


def instead_of(code: str | None) -> str:
    """Return what to write in place of a code that is not documented."""
    if code in FAULTS:
        return f"write fault={code!r}"
    alike = [row.code for row in catalog.ERRORS if code in {row.type, str(row.status)}]
    if alike:
        return f"write {' or '.join(map(repr, alike))}"
    return f"{near(code)}write status=400, code={code!r}"
