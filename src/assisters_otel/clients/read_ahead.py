"""Exceptions that a client raises while the library reads a body ahead.

They belong to the caller's own read, and are raised there, with the same context as without the
library (test_what_a_body_breaks_off_with_has_the_context_that_it_had).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from assisters_otel import foreign_exceptions
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Iterator


def _context_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the chain of its contexts, each once: the chain may be a ring."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__context__


@fail_safe
def find_foreign(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return the foreign exception that *error* is, or that it was raised for; None without one.

    Args:
        error: An exception raised while reading ahead.
        handled: The exception that was being handled when the reading started, or None.
    """
    return foreign_exceptions.of_client(error, handled)


@fail_safe
def drop_handled_context(error: Exception, handled: BaseException | None) -> None:
    """Remove *handled*, which was being handled when reading ahead started, from the context."""
    for one in _context_chain(error):
        if one.__context__ is handled:
            one.__context__ = None
            return


def raise_in_reader(error: Exception) -> NoReturn:
    """Raise an exception of reading ahead, with the context that the caller's read would give it.

    The caller may be handling another exception: an SDK reads the body of an error response in its
    ``except`` block. That exception becomes the context of the first one in the chain.

    Raises:
        Exception: *error*.
    """
    context, first = error.__context__, list(_context_chain(error))[-1]
    try:
        raise error
    finally:
        if context is not None:
            handled, error.__context__ = error.__context__, context
            is_new = handled is not context and first.__context__ is None
            if is_new and all(one is not first for one in _context_chain(handled)):
                first.__context__ = handled
            del handled
        del error, first, context  # the traceback refers to this frame
