"""A provider with its exporters and its worker; a meter provider that knows who records in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from assisters_otel.clients.aiohttp import adapter as aiohttp_adapter
from assisters_otel.clients.httpx import adapter as httpx_adapter
from assisters_otel.clients.requests import adapter as requests_adapter
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import Attributes

    from assisters_otel.providers.exporters import ForkSafeExporter
    from assisters_otel.providers.workers import DaemonWorker

OUR_SCOPES: Final = (
    names.SCOPE,
    httpx_adapter.SCOPE,
    requests_adapter.SCOPE,
    aiohttp_adapter.SCOPE,
)
"""The meters of the library, and of the HTTP instrumentations that it switches on. In a forked
process they get a provider of their own. What they counted before the fork is exported by the
parent."""

Provider = TypeVar("Provider", TracerProvider, MeterProvider)


@dataclass(frozen=True)
class Pipeline(Generic[Provider]):
    """A provider with its exporters, and the worker that flushes and shuts it down.

    Attributes:
        provider: The SDK's.
        exporters: Those that it exports by. An exporter that is pulled is not among them.
        worker: Has one call at a time, so a flush and the shutdown do not overlap.
    """

    provider: Provider
    exporters: Sequence[ForkSafeExporter[SpanExporter] | ForkSafeExporter[MetricExporter]]
    worker: DaemonWorker

    @property
    def is_used(self) -> bool:
        """True if something may be in it that this process has recorded."""
        return not isinstance(self.provider, WatchedMeterProvider) or self.provider.is_used

    @property
    def is_unreachable(self) -> bool:
        """True if none of its receivers answers."""
        return bool(self.exporters) and all(one.delivery.is_unreachable for one in self.exporters)


AnyPipeline: TypeAlias = "Pipeline[TracerProvider] | Pipeline[MeterProvider]"


class WatchedMeterProvider(MeterProvider):
    """The SDK's provider, which knows whether code other than the library records in it.

    If only the library does, a forked child does not flush the provider that it inherits. A thread
    of the parent may have held a lock of that provider at the fork, and a flush waits for it.
    """

    def __init__(
        self,
        readers: Sequence[MetricReader],
        resource: Resource,
        configured: Mapping[str, Callable[..., object]],
    ) -> None:
        self._created_in_pid = os.getpid()
        self._is_shared = False
        # `configured` is a private argument, which a later version may drop. So it is not typed.
        init = cast("Callable[..., None]", super().__init__)
        init(readers, resource=resource, shutdown_on_exit=False, **configured)

    @property
    def is_used(self) -> bool:
        """True if something may be in it that this process has recorded."""
        return self._is_shared or self._created_in_pid == os.getpid()

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Meter:
        """Return a meter, and remember if it is not one of `OUR_SCOPES`."""
        self._is_shared = self._is_shared or name not in OUR_SCOPES
        return super().get_meter(name, version, schema_url, attributes)
