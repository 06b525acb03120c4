"""A real OTLP/HTTP receiver on loopback, for tests that look at what leaves the process."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import sys
import threading
import time
import zlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import Self

T = TypeVar("T")


class Request(NamedTuple):
    """One request that arrived. Headers in lower case; *client* tells connections apart."""

    path: str
    headers: dict[str, str]
    client: tuple[str, int]
    body: bytes


class Event(NamedTuple):
    name: str
    attributes: dict[str, Any]


class Link(NamedTuple):
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class Span(NamedTuple):
    """A span as it was sent. Ids in hex, times in nanoseconds, no parent is ``""``."""

    name: str
    kind: str  # "CLIENT"
    trace_id: str
    span_id: str
    parent_span_id: str
    attributes: dict[str, Any]
    status: tuple[str, str]  # ("ERROR", "invalid_api_key"); a description of "" is none
    events: list[Event]
    links: list[Link]
    resource: dict[str, Any]
    scope: str
    start_ns: int
    end_ns: int


class Exemplar(NamedTuple):
    trace_id: str
    span_id: str
    value: float
    attributes: dict[str, Any]


class Point(NamedTuple):
    """A metric point as it was sent: *value* for sums and gauges, the rest for histograms."""

    attributes: dict[str, Any]
    value: float | None
    count: int
    sum: float
    bounds: list[float]
    buckets: list[int]
    exemplars: list[Exemplar]
    unit: str
    resource: dict[str, Any]
    scope: str


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # five, the default, resets connections that come at once
    daemon_threads = False  # so that closing waits for the handlers, and no socket is left

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that has gone
            super().handle_error(request, client_address)


class Collector:
    """Receives OTLP over HTTP.

    Args:
        hang: Accept and read every request, and never answer.
        status: What is answered, for every path or by path; 200 where it says nothing.
        port: Listen there; by default on a free one.

    `hang` and `status` may be set while it runs, and `fault`: ``garbage`` answers what is
    no HTTP, ``reset`` resets the connection.

    >>> with Collector() as collector:
    ...     export_to(collector.endpoint)
    ...     (span,) = collector.wait_for(collector.spans)
    """

    def __init__(
        self, *, hang: bool = False, status: int | Mapping[str, int] = 200, port: int = 0
    ) -> None:
        self.hang = hang
        self.status = status
        self.fault = ""
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._closing.set()
        with self._changed:
            for connection in self._connections:
                # A kept-alive connection would hold its handler in a read.
                with suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def spans(self) -> list[Span]:
        """Every span that arrived, in the order of arrival."""
        return [span for body in self._bodies("/v1/traces") for span in _spans(body)]

    def points(self, metric: str) -> list[Point]:
        """The newest point of each series of *metric*: resource, scope and attributes."""
        newest: dict[str, Point] = {}
        for point in self.all_points(metric):
            key = [point.resource, point.scope, point.attributes]
            newest[json.dumps(key, sort_keys=True)] = point
        return list(newest.values())

    def all_points(self, metric: str) -> list[Point]:
        """Every point of *metric* that arrived; a cumulative one comes with each export."""
        return [
            point
            for body in self._bodies("/v1/metrics")
            for name, point in _points(body)
            if name == metric
        ]

    def metric_names(self) -> set[str]:
        """The names of all metrics that arrived."""
        return {name for body in self._bodies("/v1/metrics") for name, _ in _points(body)}

    def wait_for(self, predicate: Callable[[], T], timeout_s: float = 5) -> T:
        """Wait until *predicate* says something true, and return that.

        Raises:
            AssertionError: It does not in time.
        """
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while not (answer := predicate()):
                left_s = until_s - time.monotonic()
                arrived = [(r.path, len(r.body)) for r in self.requests]
                assert left_s > 0, f"not in {timeout_s} s; what arrived: {arrived}"
                self._changed.wait(min(left_s, 0.1))
        return answer

    def _bodies(self, path: str) -> list[bytes]:
        return [request.body for request in list(self.requests) if request.path == path]

    def _answer(self, request: Request) -> int | None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        if self.hang:
            self._closing.wait()
            return None
        return self.status if isinstance(self.status, int) else self.status.get(request.path, 200)


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with collector._changed:
                collector._connections.add(self.connection)

        def finish(self) -> None:
            with collector._changed:
                collector._connections.discard(self.connection)
            super().finish()

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            body = _UNPACK[headers.get("content-encoding", "identity")](body)
            leaks.look(body, f"POST {self.path}")
            status = collector._answer(Request(self.path, headers, self.client_address, body))
            if collector.fault == "garbage":
                self.wfile.write(b"\x00\xff no HTTP\r\n\r\n")
            elif collector.fault == "reset":
                # To linger for no time is to reset.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if status is None or collector.fault:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


def _spans(body: bytes) -> Iterator[Span]:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                kind = trace_pb2.Span.SpanKind.Name(span.kind)
                code = trace_pb2.Status.StatusCode.Name(span.status.code)
                yield Span(
                    name=span.name,
                    kind=kind.removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    status=(code.removeprefix("STATUS_CODE_"), span.status.message),
                    events=[Event(e.name, _attributes(e.attributes)) for e in span.events],
                    links=[
                        Link(k.trace_id.hex(), k.span_id.hex(), _attributes(k.attributes))
                        for k in span.links
                    ],
                    resource=resource,
                    scope=of_scope.scope.name,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                )


def _points(body: bytes) -> Iterator[tuple[str, Point]]:
    for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    number = kind in {"sum", "gauge"}
                    yield (
                        metric.name,
                        Point(
                            attributes=_attributes(point.attributes),
                            value=_number(point) if number else None,
                            count=0 if number else point.count,
                            sum=0.0 if number else point.sum,
                            bounds=list(getattr(point, "explicit_bounds", ())),
                            buckets=list(getattr(point, "bucket_counts", ())),
                            exemplars=[
                                Exemplar(
                                    e.trace_id.hex(),
                                    e.span_id.hex(),
                                    _number(e),
                                    _attributes(e.filtered_attributes),
                                )
                                for e in point.exemplars
                            ],
                            unit=metric.unit,
                            resource=resource,
                            scope=of_scope.scope.name,
                        ),
                    )


def _number(point: Any) -> float:
    return getattr(point, point.WhichOneof("value"))


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
