"""A client's classes by their names: it may be imported anew while its old classes are in use."""

from __future__ import annotations

from typing import Any, Final

CLIENTS: Final = ("httpx", "httpx2")
"""Under which names httpx and httpx2 may be imported: ``httpx2.alias_httpx`` mixes the two."""

GENERATIONS: Final = 4
"""How many imports of a client's classes are remembered, with the classes made of them: of two
clients the one in use and the one before. What comes back later is made again."""


def is_a(thing: object, packages: tuple[str, ...], *names: str) -> bool:
    """Return True if *thing* is of one of a client's classes, of whichever import of the client.

    Args:
        thing: An exception, a stream.
        packages: The client's top modules, for example ``("httpx", "httpx2")``.
        names: The classes, without their modules.
    """
    return any(
        kind.__name__ in names and kind.__module__.partition(".")[0] in packages
        for kind in type(thing).__mro__
    )


def find_base(thing: object, name: str, otherwise: Any) -> Any:
    """Return the class of that name from which *thing*'s is derived; *otherwise* without one."""
    return next((kind for kind in type(thing).__mro__ if kind.__name__ == name), otherwise)


def is_of(kind: type, module: str, name: str) -> bool:
    """Return True if *kind* is that class itself, no subclass and none of ours under its name."""
    is_named = kind.__module__ == module and kind.__qualname__ == name
    return is_named and kind.__base__ is not None and kind.__base__.__qualname__ != name


def named_as(base: type, ours: type) -> type:
    """Give a class the name of the one that it stands in for, for who prints it."""
    ours.__module__, ours.__qualname__ = base.__module__, base.__qualname__
    return ours
