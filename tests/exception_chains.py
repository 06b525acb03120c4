"""An exception with its causes, in a form that can be compared with that of another run."""

from __future__ import annotations


def kinds(error: BaseException | None) -> list[tuple[type[BaseException], str]]:
    """Give the class and the text of an exception, and those of each of its causes."""
    found = []
    while error is not None:
        found.append((type(error), str(error)))
        error = error.__cause__
    return found
