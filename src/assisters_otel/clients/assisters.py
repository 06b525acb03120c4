"""The `assisters` SDK, 0.1: one call of it may be several attempts.

The SDK retries without a pause, and marks its resends by no header.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from assisters_otel.api.unusable_answer import error_in_result
from assisters_otel.attempts.call_request import RESULT, ExpectedAnswer
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.clients.sdk_call import wrap_call
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from assisters_otel.api.error_body import Envelope
    from assisters_otel.attempts.call import Call
    from assisters_otel.recording.recorder import Recorder

MODULE: Final = "assisters"

_EVENTS: Final = ExpectedAnswer(is_read_by_app=True, is_event_stream=True)
"""The answer that `_stream` expects: the SDK skips each line of it that is no event."""


class _FirstStepInCall:
    """The chunks of the SDK's generator. Its first step runs inside the call, and starts it.

    The SDK sends its requests in the first step, before the first chunk. Another task may ask for
    the other chunks.
    """

    __slots__ = ("_begin", "_chunks", "close", "send", "throw")

    def __init__(self, chunks: Any, begin: Callable[[], Call | None]) -> None:
        self._chunks = chunks
        self._begin: Callable[[], Call | None] | None = begin
        self.close = chunks.close
        # `yield from` calls `__next__` for the first step, since nothing can be sent to it.
        self.send = chunks.send
        self.throw = chunks.throw

    def __iter__(self) -> _FirstStepInCall:
        return self

    def __next__(self) -> Any:
        begin, self._begin = self._begin, None
        call = None if begin is None else begin()
        if call is None:
            return next(self._chunks)
        try:
            call.attach()
            try:
                chunk = next(self._chunks)
                call.returned()
            except StopIteration:
                call.returned()
                raise
            except BaseException as error:
                call.raised(error)
                raise
            finally:
                call.detach()
        except StopIteration:
            raise
        except BaseException:
            call.leave()
            raise
        return chunk


class AssistersAdapter:
    """The adapter."""

    module = MODULE

    def __init__(self, recorder: Recorder) -> None:
        """Prepare the adapter. It imports nothing, and wraps nothing yet.

        Args:
            recorder: The recorder of the calls.
        """
        self._recorder = recorder

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return (
            Target(MODULE, "Assisters._request", self._wrap),
            Target(MODULE, "Assisters._request_bytes", self._wrap_bytes),
            Target(MODULE, "Assisters._stream", self._wrap_stream),
        )

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return wrap_call(original, self._begin, _judge)

    def _wrap_bytes(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return wrap_call(original, self._begin, None)

    def _wrap_stream(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        def stream(client: Any, /, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            chunks = wrapped(client, *args, **kwargs)
            begin = partial(self._begin_stream, client, args, kwargs)
            return (yield from _FirstStepInCall(chunks, begin))

        return stream

    @fail_safe
    def _begin(self, client: Any, args: Any, kwargs: Any) -> Call | None:
        named = dict(zip(("method", "path"), args, strict=False)) | kwargs
        body = named.get("json_body") or named.get("data") or {}
        return self._call(client, named["method"], named, body)

    @fail_safe
    def _begin_stream(self, client: Any, args: Any, kwargs: Any) -> Call | None:
        named = dict(zip(("path", "json_body"), args, strict=False)) | kwargs
        body = {**(named["json_body"] or {}), "stream": True}  # the agent's GET has no body
        return self._call(client, named.get("method", "POST"), named, body, _EVENTS)

    def _call(
        self, client: Any, method: str, named: Any, body: Any, expected: ExpectedAnswer = RESULT
    ) -> Call | None:
        built = client._url(named["path"], named.get("root"))  # noqa: SLF001 - as its own methods do
        if not isinstance(built, str):  # of a mock
            return None
        url = urlsplit(built)
        hosts = self._recorder.watched.by_name.get(url.hostname or "")
        if hosts is None:
            return None
        place = url.scheme, url.port, url.path
        return self._recorder.calls.start_for_url(hosts, method, *place, body, expected)


@fail_safe
def _judge(_expected: ExpectedAnswer, result: object) -> tuple[Envelope | None, bool]:
    return error_in_result(result) if isinstance(result, dict) else None, False
