"""`Record`: `typing.NamedTuple`, created in a third of the time.

`typing` compiles each annotation when a class is created: for the library's records that is a third
of its import (tests/bench/import_cost.py). Here annotations stay the strings that they are in the
source.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any, Final

__all__ = ["Record"]

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    class _RecordType(type):
        """The type of `Record`. What derives from it is a named tuple of its annotations."""

        def __new__(mcs, name: str, _bases: Any, namespace: dict[str, Any]) -> type:
            fields = namespace["__annotations__"]
            defaults = [namespace[field] for field in fields if field in namespace]
            made = namedtuple(  # noqa: PYI024 - `typing.NamedTuple` is what takes the time
                name, fields, defaults=defaults, module=namespace["__module__"]
            )
            for key, value in namespace.items():
                if key not in fields and key not in _BY_NAMEDTUPLE:
                    setattr(made, key, value)
            return made

    _BY_NAMEDTUPLE: Final = frozenset({"__module__", "__qualname__"})
    Record = type.__new__(_RecordType, "Record", (), {})
