"""A context variable that is set inside the library's own exports."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

# A context variable, not a thread's: if gevent patches late, greenlets share one thread.
log_listener: Final[ContextVar[Callable[[logging.LogRecord], None] | None]] = ContextVar(
    "assisters_otel-log-listener", default=None
)
"""The function that gets the exporters' log records inside an export; None outside of one.

`Recorder` records no request that is sent while it is set: that is the exporter's."""
