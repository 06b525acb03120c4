"""An OTLP/HTTP receiver on loopback, in a thread of its own."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn import Config, Server

from assisters_otel.cli.watch import otlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from typing_extensions import Self

T = TypeVar("T")

HOST: Final = "127.0.0.1"

MAX_SPANS: Final = 20_000
"""The number of spans that wait to be shown, some 40 MB. Beyond it an exporter gets a 503, keeps
its batch and sends it again, so no span is lost. Source: OTLP/HTTP, "OTLP/HTTP Throttling"."""

BEHIND: Final = 2_000
"""The number of spans that wait when printing is too slow for what arrives."""

_JSON: Final = "application/json"
_PROTOBUF: Final = "application/x-protobuf"
_BACKLOG: Final = 128
_START_S: Final = 10.0
_LOOK_S: Final = 0.01


class Receiver:
    """Receives spans, metrics and log records. Only spans are kept, until they are read.

    Attributes:
        metrics: The number of metrics received.
        logs: The number of log records received.
    """

    def __init__(self, port: int) -> None:
        """Listen.

        Args:
            port: 0 for one that is free.

        Raises:
            OSError: The port is taken.
        """
        self._batches: queue.SimpleQueue[list[otlp.Span]] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self.metrics = self.logs = 0
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((HOST, port))
            self._listener.listen(_BACKLOG)
        except OSError:
            self._listener.close()
            raise
        app = Starlette(
            routes=[
                Route("/v1/traces", self._traces, methods=["POST"]),
                Route("/v1/metrics", self._metrics, methods=["POST"]),
                Route("/v1/logs", self._logs, methods=["POST"]),
                Route("/", _root),
            ]
        )
        self._server = Server(
            # Not `access_log=False`: that takes the handlers of the logger, here of a test's.
            Config(app, log_config=None, lifespan="off", ws="none", http="h11")
        )
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [self._listener]},
            name="assisters-watch",
            daemon=True,
        )

    @property
    def url(self) -> str:
        """The base URL, for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        until_s = time.monotonic() + _START_S
        while not self._server.started and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True  # an exporter keeps its connection open
        self._thread.join(_START_S)
        self._listener.close()

    async def _traces(self, request: Request) -> Response:
        return await self._answer(request, otlp.traces, self._put)

    async def _metrics(self, request: Request) -> Response:
        return await self._answer(request, otlp.count_metrics, self._count_metrics)

    async def _logs(self, request: Request) -> Response:
        return await self._answer(request, otlp.count_logs, self._count_logs)

    def take(self, timeout_s: float) -> list[otlp.Span]:
        """Remove and return the spans of one request to ``/v1/traces``, or nothing in time."""
        try:
            spans = self._batches.get(timeout=timeout_s)
        except queue.Empty:
            return []
        with self._lock:
            self._waiting -= len(spans)
        return spans

    @property
    def waiting(self) -> int:
        """The number of spans that wait to be taken."""
        return self._waiting

    def _put(self, spans: list[otlp.Span]) -> bool:
        with self._lock:
            if self._waiting >= MAX_SPANS:
                return False
            self._waiting += len(spans)
        if spans:
            self._batches.put(spans)
        return True

    def _count_metrics(self, count: int) -> bool:
        self.metrics += count
        return True

    def _count_logs(self, count: int) -> bool:
        self.logs += count
        return True

    async def _answer(
        self,
        request: Request,
        read: Callable[..., T],
        take: Callable[[T], bool],
    ) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in {_JSON, _PROTOBUF}:
            return PlainTextResponse(f"send {_PROTOBUF} or {_JSON}", 415)
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > otlp.MAX_BODY:
                    return PlainTextResponse("the body is too long", 413)
        except ClientDisconnect:
            return Response()
        try:
            encoding = request.headers.get("content-encoding", "").strip().lower()
            found = read(otlp.decompress(bytes(body), encoding), is_json=kind == _JSON)
        except otlp.NotOtlpError as error:
            return PlainTextResponse(str(error), 400)
        if not take(found):
            return PlainTextResponse("busy", 503, headers={"retry-after": "1"})
        # An empty message of the response's, in either form.
        return Response(b"{}" if kind == _JSON else b"", media_type=kind)


async def _root(_: Request) -> Response:
    return PlainTextResponse("assisters-otel watch: an OTLP/HTTP receiver. POST /v1/traces\n")
