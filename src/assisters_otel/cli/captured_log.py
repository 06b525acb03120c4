"""Keeps the library's log lines from the terminal while a command runs, for the command to show."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterator


class _CapturedLines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Capture what the library logs at WARNING or above.

    Yields:
        The lines. Each is appended when it is logged.
    """
    logger = logging.getLogger(names.SCOPE)
    handler, propagate = _CapturedLines(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # else logging prints each line to stderr as well
    try:
        yield handler.lines
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
