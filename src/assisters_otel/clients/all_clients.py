"""Each client that is watched, with a function that creates its adapter.

An adapter's modules are imported with its client: without those of the others an app starts a tenth
faster (tests/bench/import_cost.py).
"""

# ruff: noqa: PLC0415 - see above
from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import TracerProvider

    from assisters_otel.clients.adapter import ClientAdapter
    from assisters_otel.clients.assisters import AssistersAdapter
    from assisters_otel.clients.http_variables import HttpVariables
    from assisters_otel.clients.openai import OpenAIAdapter
    from assisters_otel.clients.patching import Target
    from assisters_otel.recording.recorder import Recorder


class Adapter(Protocol):
    """An adapter of an HTTP client or of an SDK."""

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        ...


class HttpClient(Record):
    """An HTTP client.

    Attributes:
        instrumentation: Its name in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``.
        variable: Its name in ``OTEL_PYTHON_{NAME}_EXCLUDED_URLS``.
        adapter: A function that creates its adapter.
    """

    instrumentation: str
    variable: str
    adapter: Callable[[Recorder, TracerProvider | None, HttpVariables], ClientAdapter]


def _httpx(
    recorder: Recorder, tracer_provider: TracerProvider | None, variables: HttpVariables
) -> ClientAdapter:
    from assisters_otel.clients.httpx.adapter import HttpxAdapter

    return HttpxAdapter("httpx", recorder, tracer_provider, variables)


def _httpx2(
    recorder: Recorder, tracer_provider: TracerProvider | None, variables: HttpVariables
) -> ClientAdapter:
    from assisters_otel.clients.httpx.adapter import HttpxAdapter

    return HttpxAdapter("httpx2", recorder, tracer_provider, variables)


def _requests(
    recorder: Recorder, tracer_provider: TracerProvider | None, variables: HttpVariables
) -> ClientAdapter:
    from assisters_otel.clients.requests.adapter import RequestsAdapter

    return RequestsAdapter(recorder, tracer_provider, variables)


def _aiohttp(
    recorder: Recorder, tracer_provider: TracerProvider | None, variables: HttpVariables
) -> ClientAdapter:
    from assisters_otel.clients.aiohttp.adapter import AiohttpAdapter

    return AiohttpAdapter(recorder, tracer_provider, variables)


def _openai(recorder: Recorder) -> OpenAIAdapter:
    from assisters_otel.clients.httpx.request_reader import HttpxRequestReader
    from assisters_otel.clients.openai import OpenAIAdapter

    return OpenAIAdapter(recorder, HttpxRequestReader)


def _assisters(recorder: Recorder) -> AssistersAdapter:
    from assisters_otel.clients.assisters import AssistersAdapter

    return AssistersAdapter(recorder)


HTTP_CLIENTS: Final = {
    "httpx": HttpClient("httpx", "HTTPX", _httpx),
    "httpx2": HttpClient("httpx2", "HTTPX", _httpx2),
    "requests": HttpClient("requests", "REQUESTS", _requests),
    "aiohttp": HttpClient("aiohttp-client", "AIOHTTP_CLIENT", _aiohttp),
}
"""The HTTP clients by their top modules."""

SDKS: Final[dict[str, Callable[[Recorder], Adapter]]] = {
    "openai": _openai,
    "assisters": _assisters,
}
"""The functions that create the adapters of the SDKs, by the SDKs' top modules."""
