"""What the library logs, heard in place of being printed between a command's own lines."""

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
    """Give the lines that the library logs meanwhile: warnings, and what is worse."""
    logger = logging.getLogger(names.SCOPE)
    handler, before = _CapturedLines(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.lines
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
