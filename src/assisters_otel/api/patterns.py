"""Regular expressions that are compiled when they are used first. Pure.

Compiling the library's patterns took a sixth of `import` and `init` (tests/bench/import_cost.py).
Most processes use few of them.
"""

from __future__ import annotations

import re
from typing import AnyStr, cast


class _Pattern:
    """Stands for a compiled pattern, and has its attributes."""

    def __init__(self, source: str | bytes, flags: int | re.RegexFlag) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> object:
        found: object = getattr(re.compile(self._source, self._flags), name)
        # From now on found without this method, as fast as on the compiled pattern.
        setattr(self, name, found)
        return found


def pattern(source: AnyStr, flags: int | re.RegexFlag = 0) -> re.Pattern[AnyStr]:
    """Return a pattern as `re.compile` does, which is compiled when it is used first."""
    return cast("re.Pattern[AnyStr]", _Pattern(source, flags))
