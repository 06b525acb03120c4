"""How much of what a test could repeat it does repeat: `ASSISTERS_OTEL_SIZE`, a whole number.

1, which is what there is without it, is a tenth; 10 is the whole.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

T = TypeVar("T")

VARIABLE: Final = "ASSISTERS_OTEL_SIZE"
WHOLE: Final = 10


def _size() -> int:
    text = os.environ.get(VARIABLE, "").strip() or "1"
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(
            f"{VARIABLE} is a whole number from 1, not {text!r}. "
            f"Write 1 for a tenth of what the tests can do, or {WHOLE} for the whole"
        )
    return int(text)


SIZE: Final = _size()


def sized(whole: int, *, at_least: int = 1) -> int:
    """How many of *whole* rounds a test does: a tenth for each unit of size, *at_least* so many.

    Where it is the number that a test is about, a limit say, the number stays and this is not
    asked.
    """
    return max(whole * SIZE // WHOLE, at_least)


def shared(items: Iterable[T], number: int, shares: int) -> list[T]:
    """Give, at the smallest size, one of some shares of the items; at a larger one all of them.

    Where a test does the same with each of many things, another *number* for each of them gives
    each item to some.
    """
    every = list(items)
    return every if SIZE > 1 else every[number % shares :: shares]


def left_out(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield, at the smallest size, two thirds of the variants of each test marked `sampled`.

    Each value of each parameter is in one that stays, so each client is, and each fault.
    """
    met: set[tuple[str, str, object]] = set()
    for item in items:
        if SIZE > 1 or item.get_closest_marker("sampled") is None:
            continue
        test = item.nodeid.partition("[")[0]
        params = item.callspec.params  # type: ignore[attr-defined] # marked without a parameter
        values = {(test, name, _key(value)) for name, value in params.items()}
        if values <= met and zlib.crc32(item.nodeid.encode()) % 3:
            yield item
        met |= values


def _key(value: object) -> object:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
