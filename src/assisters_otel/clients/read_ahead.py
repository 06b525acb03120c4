"""Exceptions met while a body is read ahead, raised where the caller reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from assisters_otel import foreign_exceptions
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Iterator


def _contexts(error: BaseException | None) -> Iterator[BaseException]:
    """Give an exception and those that it was met in, each once, also of a ring."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__context__


@fail_safe
def find_foreign(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return the exception that is not the client's, of one met while reading ahead, or None."""
    return foreign_exceptions.of_client(error, handled)


@fail_safe
def cut(error: Exception, handled: BaseException | None) -> None:
    """Take out of the context of what was met what was being handled as the read began."""
    for one in _contexts(error):
        if one.__context__ is handled:
            one.__context__ = None
            return


def raise_late(error: Exception) -> NoReturn:
    """Raise what was met while reading ahead, with the context that it would have had.

    Its reader may be handling another exception, as an SDK does that reads what a refusal says.
    That one is the context of where it all began.

    Raises:
        Exception: *error*.
    """
    context, first = error.__context__, list(_contexts(error))[-1]
    try:
        raise error
    finally:
        if context is not None:
            handled, error.__context__ = error.__context__, context
            is_new = handled is not context and first.__context__ is None
            if is_new and all(one is not first for one in _contexts(handled)):
                first.__context__ = handled
            del handled
        del error, first, context  # the traceback knows this frame
