"""The moments at which Python runs a signal handler in code of ours, one after the other.

Python runs a handler where a function starts, and after a function that is written in C. There a
profile function is called, too. So it raises in the handler's place, at one moment after another.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.sdk.trace import Span, SpanProcessor

from assisters_otel.attempts.attempt import current_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    import assisters_otel
    from memory import Memory

OF_OURS = "/assisters_otel/"
ENTERS = "/opentelemetry/context/"
NO_MOMENTS = {"<genexpr>", "__del__", "close", "aclose"}
"""A generator that is dropped is entered once more for the profile function alone. What is raised
in a `__del__` reaches nobody. httpx takes a response for closed
before it closes its stream: an interrupt at that moment leaks the connection without us, too."""


class Open(SpanProcessor):
    """The spans that were started and have not ended."""

    def __init__(self) -> None:
        self.spans: dict[int, str] = {}

    def on_start(self, span: Span, parent_context: Any = None) -> None:  # noqa: ARG002 - as the SDK calls it
        self.spans[span.get_span_context().span_id] = span.name

    def on_end(self, span: Any) -> None:
        self.spans.pop(span.context.span_id, None)


@contextmanager
def interrupted_at(number: int, *, in_task: bool = False) -> Iterator[list[str]]:
    """Raise KeyboardInterrupt at one moment. Yield where that was, in a list, or an empty one.

    With *in_task* only where the task can go on, which is not in a callback.
    """
    places: list[str] = []
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        code = frame.f_code
        if places or event not in {"call", "c_return"} or code.co_name in NO_MOMENTS:
            return
        if (in_task and not _is_in_task()) or (event == "call" and _is_resumed(frame)):
            return
        if OF_OURS in code.co_filename or (ENTERS in code.co_filename and _is_in_ours(frame)):
            count += 1
            if count == number:
                places.append(f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {event}")
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield places
    finally:
        sys.setprofile(None)


def _is_in_task() -> bool:
    """Return False in a callback of the event loop: an exception there ends the loop itself."""
    return asyncio._get_running_loop() is None or asyncio.current_task() is not None


def _is_resumed(frame: FrameType) -> bool:
    """Return True behind an `await`. CPython runs no handler there: what is awaited would leak."""
    flags = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return bool(frame.f_code.co_flags & flags) and frame.f_lineno != frame.f_code.co_firstlineno


def _is_in_ours(frame: FrameType | None) -> bool:
    while frame is not None and ENTERS in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and OF_OURS in frame.f_code.co_filename


def left_behind(
    memory: Memory,
    telemetry: assisters_otel.Telemetry,
    run: Callable[[], object],
    *,
    start: int,
    step: int,
) -> tuple[int, list[tuple[str, ...]]]:
    """Interrupt a run at each *step*th moment from *start* on, until one is not interrupted.

    Returns:
        The number of the last moment, and what was left open, each with the place of its interrupt.
    """
    open_spans = Open()
    memory.tracer_provider.add_span_processor(open_spans)
    number, left, is_through = start, [], False
    while not is_through:
        before = context.get_current()
        with interrupted_at(number) as places:
            try:
                run()
            except KeyboardInterrupt:
                assert places
            else:
                assert not places, f"swallowed at {places}"
                is_through = True
        gc.collect()  # streams and coroutines of the client's, which may hold a span
        telemetry._instrumentation.recorder.deferred.run_all()
        left += [(*places, name) for name in open_spans.spans.values()]
        if context.get_current() != before or current_call() is not None:
            left.append((*places, "a context"))
            context.attach(before)
        open_spans.spans.clear()
        number += step
    return number, left
