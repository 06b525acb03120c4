"""A dictionary by the identity of objects, which it does not keep alive.

`weakref.WeakKeyDictionary` needs hashable keys, and takes equal objects for one. Providers, spans
and responses of the app need not be hashable.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import ref as weakref

if TYPE_CHECKING:
    from collections.abc import Callable

V = TypeVar("V")


class WeakIdentityDict(Generic[V]):
    """A value for each object, as long as that lives. An object need not be hashable."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[int, tuple[Callable[[], object], V]] = {}

    def get(self, thing: object) -> V | None:
        """Return the value of an object, or None."""
        found = self._kept.get(id(thing))
        return found[1] if found is not None and found[0]() is thing else None

    def put(self, thing: object, value: V) -> bool:
        """Keep a value for an object.

        Returns:
            False if the object cannot be referred to weakly. Then nothing is kept.
        """
        key = id(thing)
        try:
            gone = weakref(thing, partial(self._kept.pop, key))
        except TypeError:
            return False
        self._kept[key] = gone, value
        return True

    def put_for_ever(self, thing: object, value: V) -> None:
        """Keep a value for an object. Without weak references to it, keep the object as well."""
        if not self.put(thing, value):
            self._kept[id(thing)] = (lambda: thing), value

    def pop(self, thing: object) -> V | None:
        """Forget an object. Return its value, or None."""
        value = self.get(thing)
        self._kept.pop(id(thing), None)
        return value

    def __len__(self) -> int:
        """Return the number of objects that have a value."""
        return len(self._kept)
