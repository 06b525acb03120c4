"""The package's logger. What the app plugs into logging may raise: that costs the line alone."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from assisters_otel import foreign_exceptions
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

_logger: Final = logging.getLogger(names.SCOPE)


def is_enabled_for(level: int) -> bool:
    """Return True if a line of a level would be written."""
    return _logger.isEnabledFor(level)


def debug(message: str, *args: object) -> None:
    """Write a line at DEBUG: *message* with a place, ``%s``, for each of *args*."""
    _write(logging.DEBUG, message, args, {})


def info(message: str, *args: object) -> None:
    """Write a line at INFO, as `debug` does."""
    _write(logging.INFO, message, args, {})


def warning(message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
    """Write a line at WARNING, as `debug` does.

    Args:
        message: With a place, ``%s``, for each of *args*.
        args: For those.
        fields: For machines, as `extra` of `logging`. What the app's own factory of records has
            set already stays as it is.
    """
    _write(logging.WARNING, message, args, fields or {})


def _write(
    level: int, message: str, args: tuple[object, ...], fields: Mapping[str, object]
) -> None:
    if not _logger.isEnabledFor(level):
        return
    caller = sys._getframe(2)  # noqa: SLF001 - as `logging` finds it
    where = caller.f_code.co_filename, caller.f_lineno
    try:
        record = _logger.makeRecord(
            _logger.name, level, *where, message, args, None, caller.f_code.co_name
        )
        for name, value in fields.items():
            vars(record).setdefault(name, value)
        _logger.handle(record)
    except Exception as error:  # noqa: BLE001 - there is nobody left to tell
        theirs = foreign_exceptions.of(error)
        if theirs is not None:
            raise theirs from None
