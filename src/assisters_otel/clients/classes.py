"""A client's classes, recognised by their names.

A client may be imported anew while the app still uses the old classes. Then `isinstance` with the
new class is False for an object of the old one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

CLIENTS: Final = ("httpx", "httpx2")
"""The names of httpx and httpx2. ``httpx2.alias_httpx`` imports one under the other's name."""

GENERATIONS: Final = 4
"""The number of a client's classes that have a cached subclass: for two clients, the class in use
and that of the import before. A further one is created again."""


def is_a(thing: object, packages: tuple[str, ...], *names: str) -> bool:
    """Return True if *thing* is an instance of one of a client's classes, from any import of it.

    Args:
        thing: An exception or a stream.
        packages: The client's top modules, for example ``("httpx", "httpx2")``.
        names: The names of the classes, without their modules.
    """
    return any(
        kind.__name__ in names and kind.__module__.partition(".")[0] in packages
        for kind in type(thing).__mro__
    )


@lru_cache(2 * GENERATIONS)  # searched for each body that is watched
def find_base(kind: type, name: str) -> Any:
    """Return the class named *name* among the bases of a class, or None."""
    return next((base for base in kind.__mro__ if base.__name__ == name), None)


def is_of(kind: type, module: str, name: str) -> bool:
    """Return True if *kind* is that class itself, and no subclass that `take_identity` renamed."""
    is_named = kind.__module__ == module and kind.__qualname__ == name
    return is_named and kind.__base__ is not None and kind.__base__.__qualname__ != name


def take_identity(base: type, ours: type) -> type:
    """Return *ours* with the name of *base*, so that an app that prints it sees no change."""
    ours.__module__, ours.__qualname__ = base.__module__, base.__qualname__
    return ours
