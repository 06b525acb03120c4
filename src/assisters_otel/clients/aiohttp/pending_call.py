"""Calls a coroutine function of aiohttp's only when a coroutine of the library's awaits it."""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.patching import as_function

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_SHAPES: Final = 64
"""Of how many kinds of arguments it is known that they fit. aiohttp's own calls have a few."""


def pending_call(original: Any) -> Callable[[Any, Any, Any], Callable[[], Any]]:
    """Return a function that checks the arguments of a call, and returns the call.

    A task that is cancelled before its first step drops the library's coroutine unrun. The client's
    coroutine would be dropped unawaited with it, and Python would warn. So it is created later. The
    arguments are checked as by the call: by a coroutine that is closed, once for each shape.
    """
    call = as_function(original)
    if type(original) is not FunctionType or not original.__code__.co_flags & inspect.CO_COROUTINE:

        def made(instance: Any, args: Any, kwargs: Any) -> Callable[[], Any]:
            returned = call(instance, *args, **kwargs)  # a mock records the call: once, and now
            return lambda: returned

        return made
    shapes: set[tuple[Any, ...]] = set()

    def checked(instance: Any, args: Any, kwargs: Any) -> Callable[[], Any]:
        shape = (len(args), *kwargs)
        if shape not in shapes:
            call(instance, *args, **kwargs).close()
            if len(shapes) < _MAX_SHAPES:
                shapes.add(shape)
        return partial(call, instance, *args, **kwargs)

    return checked


def with_names_of(original: Any, coroutine: Any) -> Any:
    """Return a coroutine of the library's, with the names of the client's coroutine."""
    if type(original) is FunctionType:  # a mock has others
        coroutine.__name__, coroutine.__qualname__ = original.__name__, original.__qualname__
    return coroutine
