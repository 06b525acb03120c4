"""Whether the code that runs is the library's own exporter."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

# Of the context, not of the thread: greenlets share one, if gevent is switched on late.
here: Final[ContextVar[Callable[[logging.LogRecord], None] | None]] = ContextVar(
    "assisters_otel-here", default=None
)
"""Who hears what is logged here."""
