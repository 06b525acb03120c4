"""The `openai` SDK, 1 to 3, sync and async: one call of it may be several attempts.

`SyncAPIClient.request` and `AsyncAPIClient.request` contain the whole retry loop of each kind of
call: plain, streamed, raw, a page of a list. So one run of them is one call.

`BaseClient._build_request` creates the request that the SDK sends. The call keeps a reader of it,
and compares it with each request in its scope: a hook may send others meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from assisters_otel.attempts.call import current_call
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.clients.sdk_call import wrap_call
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.api.request import RequestReader
    from assisters_otel.attempts.call import Call
    from assisters_otel.recording.recorder import Recorder

MODULE: Final = "openai"


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

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return (
            Target(MODULE, "_base_client.SyncAPIClient.request", self._wrap),
            Target(MODULE, "_base_client.AsyncAPIClient.request", self._wrap_async),
            # OpenInference wraps these two, around what the base class had at that time.
            Target(MODULE, "OpenAI.request", self._wrap),
            Target(MODULE, "AsyncOpenAI.request", self._wrap_async),
            Target(MODULE, "_base_client.BaseClient._build_request", self._wrap_build),
        )

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return wrap_call(original, self._begin)

    def _wrap_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        async def request(client: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begin(client, args, kwargs)
            if call is None:
                return await wrapped(client, *args, **kwargs)
            call.attach()
            raised = None
            try:
                result = await wrapped(client, *args, **kwargs)
                call.returned(result)
            except BaseException as error:
                raised = error
                call.raised(error)
                raise
            finally:
                call.detach(raised)
                del raised  # its traceback refers to this frame
            return result

        return request

    def _wrap_build(self, original: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = as_function(original)

        def build_request(client: Any, *args: Any, **kwargs: Any) -> Any:
            request = wrapped(client, *args, **kwargs)
            self._built(request)
            return request

        return build_request

    @fail_safe
    def _built(self, request: Any) -> None:
        call = current_call()
        if call is not None:
            call.builds(self._reader_of(request))

    @fail_safe
    def _begin(self, client: Any, args: Any, kwargs: Any) -> Call | None:
        url = client.base_url
        hosts = self._recorder.watched.named(url.host)
        options = args[1] if len(args) > 1 else kwargs["options"]
        path = options.url
        if "://" in path:  # a whole URL, as a list's next page may have
            whole = urlsplit(path)
            return self._recorder.calls.start_for_url(
                options.method, whole.scheme, whole.hostname or "", whole.port, whole.path
            )
        if hosts is None:
            return None
        base = url.raw_path.decode("ascii").partition("?")[0]
        body = options.json_data if isinstance(options.json_data, dict) else {}
        if options.extra_json:
            body = {**body, **options.extra_json}  # as `BaseClient._build_request` merges them
        return self._recorder.calls.start_for_url(
            options.method,
            url.scheme,
            url.host,
            url.port,
            f"{base.rstrip('/')}/{path.lstrip('/')}",
            body,
        )
