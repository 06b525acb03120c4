"""The one place that catches: our own trouble never reaches the app."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from assisters_otel import foreign_exceptions, logger
from assisters_otel.api import redaction
from assisters_otel.api.limits import MAX_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOLD: Final = 20
"""Kinds of trouble that are warned of, each once; what is new after that is logged at DEBUG."""

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Runs our own code.

    Attributes:
        strict: Raise it all the same, which `init` offers for tests.
        last_failure: The last trouble, as one line, or None.
    """

    def __init__(self, *, strict: bool = False, passing: type[Exception] | None = None) -> None:
        """Begin without trouble.

        Args:
            strict: Raise it.
            passing: What is raised in any case: the user's own mistake.
        """
        self.strict = strict
        self._passing = passing
        self.last_failure: str | None = None
        self._told: set[str] = set()

    def __call__(self, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run *step*; return what it returns, or None if it raised."""
        try:
            return step(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - that is what it is for
            self.note(error)
            return None

    def note(self, error: Exception) -> None:
        """Keep and log a trouble of ours; the same one again is logged at DEBUG only.

        Raises:
            BaseException: What is not ours, as `foreign_exceptions` knows it.
            Exception: *error*, if the guard is strict or lets it pass.
        """
        theirs = foreign_exceptions.of(error)
        if theirs is not None:
            raise theirs
        if self.strict or (self._passing is not None and isinstance(error, self._passing)):
            raise error
        failure = redaction.clean(f"{type(error).__name__}: {error}", MAX_MESSAGE)
        is_new = failure not in self._told and len(self._told) < MAX_TOLD
        if is_new:
            self._told.add(failure)
        self.last_failure = failure
        tell = logger.warning if is_new else logger.debug
        tell("trouble of our own, the app is not touched: %s", failure)
        if logger.is_enabled_for(logging.DEBUG):
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            logger.debug("where it came from:\n%s", redaction.redact(trace))
