"""The `openai` SDK, 1 to 3, sync and async: one call of it may be several attempts.

`SyncAPIClient.request` and `AsyncAPIClient.request` contain the whole retry loop of each kind of
call: plain, streamed, raw, a page of a list. So one run of them is one call.

`BaseClient._build_request` creates the request that the SDK sends. The call keeps a reader of it,
and compares it with each request in its scope: a hook may send others meanwhile.

`with_raw_response` and `with_streaming_response` return an answer that the app parses itself. So
its ``parse`` is wrapped as well. The SDK uses it, too, for the answers that it parses.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from assisters_otel.api.unusable_answer import error_in_result
from assisters_otel.attempts.attempt import current_call
from assisters_otel.attempts.call_request import RESULT, ExpectedAnswer
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.clients.sdk_call import wrap_call
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from assisters_otel.api.error_body import Envelope
    from assisters_otel.api.request import RequestReader
    from assisters_otel.attempts.call import Call
    from assisters_otel.recording.recorder import Recorder

MODULE: Final = "openai"

_RAW: Final = "X-Stainless-Raw-Response"
"""The header by which the SDK tells itself that its caller wants a raw answer."""

_APART: Final = (
    ("langfuse.openai", frozenset({"completions", "embeddings", "responses"})),
    ("opentelemetry.instrumentation.openai.v1.responses_wrappers", frozenset({"responses"})),
)
"""The modules that wrap methods of the SDK and record their calls in spans that are never current,
with the last segments of those calls' paths. Source: `langfuse.openai`, which wraps the SDK when it
is imported, and `opentelemetry-instrumentation-openai`, which makes its span after the answer."""

_RESPONSE: Final = "Response"
"""The name of httpx's class, in which a caller may have the answer."""

_NO_DOCUMENTS: Final = frozenset(
    {"str", "bytes", "int", "float", "bool", "NoneType", "HttpxBinaryResponseContent", _RESPONSE}
)
"""The names of the types of results that the SDK makes of any body. Source: `_parse` of
`openai._legacy_response` and of `openai._response`."""


class _Base(Record):
    """The parts of a client's base URL. Its calls have the same object, so they are read once."""

    url: Any
    host: str
    scheme: str
    port: int | None
    parent: str


class OpenAIAdapter:
    """The adapter."""

    module = MODULE

    def __init__(self, recorder: Recorder, reader_of: Callable[[Any], RequestReader]) -> None:
        """Prepare the adapter. It imports nothing, and wraps nothing yet.

        Args:
            recorder: The recorder of the calls.
            reader_of: A function that returns the reader of a request of httpx, which the SDK
                sends through.
        """
        self._recorder = recorder
        self._reader_of = reader_of
        self._last_base: _Base | None = None

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return (
            Target(MODULE, "_base_client.SyncAPIClient.request", self._wrap),
            Target(MODULE, "_base_client.AsyncAPIClient.request", self._wrap_async),
            # OpenInference wraps these two, around what the base class had at that time.
            Target(MODULE, "OpenAI.request", self._wrap),
            Target(MODULE, "AsyncOpenAI.request", self._wrap_async),
            Target(MODULE, "_base_client.BaseClient._build_request", self._wrap_build),
            Target(MODULE, "_legacy_response.LegacyAPIResponse.parse", self._wrap_parse),
            Target(MODULE, "_response.APIResponse.parse", self._wrap_parse),
            Target(MODULE, "_response.AsyncAPIResponse.parse", self._wrap_async_parse),
            Target(MODULE, "_response.APIResponse.close", self._wrap_close),
            Target(MODULE, "_response.AsyncAPIResponse.close", self._wrap_async_close),
        )

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return wrap_call(original, self._begin, _judge)

    def _wrap_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        async def request(client: Any, /, *args: Any, **kwargs: Any) -> Any:
            call = self._begin(client, args, kwargs)
            if call is None:
                return await wrapped(client, *args, **kwargs)
            raised = None
            try:
                call.attach()
                try:
                    result = await wrapped(client, *args, **kwargs)
                    call.returned(result, _judge)
                except BaseException as error:
                    raised = error
                    call.raised(error)
                    raise
                finally:
                    call.detach(raised)
                    del raised  # its traceback refers to this frame
            except BaseException:
                call.leave()
                raise
            return result

        return request

    def _wrap_parse(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        def parse(answer: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                result = wrapped(answer, *args, **kwargs)
            except Exception as error:
                call = self._settle(answer, error)  # noqa: F841 - `find_in_traceback` reads it
                raise
            if self._recorder.calls.unparsed.is_used:
                self._settle(answer)
            return result

        return parse

    def _wrap_async_parse(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        async def parse(answer: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                result = await wrapped(answer, *args, **kwargs)
            except Exception as error:
                call = self._settle(answer, error)  # noqa: F841 - `find_in_traceback` reads it
                raise
            if self._recorder.calls.unparsed.is_used:
                self._settle(answer)
            return result

        return parse

    def _wrap_close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        def close(answer: Any, /) -> None:
            try:
                wrapped(answer)
            finally:
                self._settle(answer)

        return close

    def _wrap_async_close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        async def close(answer: Any, /) -> None:
            try:
                await wrapped(answer)
            finally:
                self._settle(answer)

        return close

    @fail_safe
    def _settle(self, answer: Any, error: Exception | None = None) -> Call | None:
        return self._recorder.calls.unparsed.settle(answer, error)

    def _wrap_build(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        def build_request(client: Any, /, *args: Any, **kwargs: Any) -> Any:
            request = wrapped(client, *args, **kwargs)
            self._built(request)
            return request

        return build_request

    @fail_safe
    def _built(self, request: Any) -> None:
        call = current_call()
        if call is not None:
            call.built_request = self._reader_of(request)

    @fail_safe
    def _begin(self, client: Any, args: Any, kwargs: Any) -> Call | None:
        base = client.base_url
        options = args[1] if len(args) > 1 else kwargs["options"]
        path = options.url
        if "://" in path:  # a whole URL, as a list's next page may have
            url = urlsplit(path)
            hosts = self._recorder.watched.by_name.get(url.hostname or "")
            place = url.scheme, url.port, url.path
        else:
            known = self._last_base
            if known is None or known.url is not base:
                known = self._last_base = _base(base)
            hosts = self._recorder.watched.by_name.get(known.host)
            place = known.scheme, known.port, f"{known.parent}/{path.lstrip('/')}"
        if hosts is None:
            return None
        body = options.json_data if isinstance(options.json_data, dict) else {}
        if options.extra_json:
            body = {**body, **options.extra_json}  # as `BaseClient._build_request` merges them
        return self._recorder.calls.start_for_url(
            hosts,
            options.method,
            *place,
            body,
            _expected_answer(args[0] if args else kwargs["cast_to"], options, kwargs),
            is_recorded_apart=_is_recorded_apart(path),
        )


def _base(url: Any) -> _Base:
    path = url.raw_path.decode("ascii").partition("?")[0]
    return _Base(url, url.host, url.scheme, url.port, path.rstrip("/"))


def _is_recorded_apart(path: str) -> bool:
    """Return True if another instrumentation records a call in a span that is never current."""
    for module, names in _APART:
        if module in sys.modules and path.rstrip("/").rpartition("/")[2] in names:
            return True
    return False


def _expected_answer(cast_to: Any, options: Any, kwargs: Any) -> ExpectedAnswer:
    """Return the answer that the caller of ``request`` expects.

    Args:
        cast_to: The type of the SDK's result.
        options: The SDK's ``FinalRequestOptions``.
        kwargs: The keyword arguments.
    """
    kind, headers = getattr(cast_to, "__name__", ""), options.headers
    is_event_stream = bool(kwargs.get("stream"))
    is_raw = isinstance(headers, dict) and _RAW in headers
    # A parser of the SDK's own helpers raises for an error in place of the result.
    is_parsed_again = callable(options.post_parser)
    is_read_by_app = is_event_stream or is_raw or is_parsed_again or kind == _RESPONSE
    if kind not in _NO_DOCUMENTS and not is_read_by_app:
        return RESULT
    return ExpectedAnswer(kind not in _NO_DOCUMENTS, is_read_by_app, is_event_stream)


@fail_safe
def _judge(expected: ExpectedAnswer, result: Any) -> tuple[Envelope | None, bool]:
    """Judge the SDK's result, as `Judge` has it. A body that the app reads is judged by itself."""
    if expected.is_read_by_app:
        return None, not expected.is_event_stream and hasattr(result, "http_response")
    members = result if isinstance(result, dict) else _members(result)
    return error_in_result(members) if members else None, False


def _members(result: Any) -> dict[str, Any]:
    """Return the members of a parsed answer if it has an error among them, else an empty dict."""
    members = getattr(result, "__dict__", {})
    extra = getattr(result, "model_extra", None) or {}
    error = extra.get("error") or members.get("error")
    if not error:
        return {}
    given: Iterable[str] = getattr(result, "model_fields_set", ())
    if hasattr(error, "model_fields_set"):  # the SDK has parsed it, as one of `responses`
        error = {**vars(error), **(getattr(error, "model_extra", None) or {})}
    return {**extra, **{name: members.get(name) for name in given}, "error": error}
