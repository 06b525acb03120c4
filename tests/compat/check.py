"""What one install of the package must do: python check.py core|empty|auto|grpc|…

It runs inside an environment that `matrix.py` has made, against servers of the standard
library, and asks only what that install is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import assisters_otel
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPTS = Path(sysconfig.get_path("scripts"))
ENVELOPE = {"error": {"message": "Slow down.", "type": "rate_limit_error", "param": "model",
                      "code": "rate_limit_exceeded"}}  # fmt: skip
EXPECTED = {
    "error.type": "rate_limit_error",
    "error.code": "rate_limit_exceeded",
    "error.param": "model",
    "assisters.error.retryable": True,
    "assisters.request.id": "req_1",
    "assisters.retry_after": 2.0,
    "url.template": "/v1/chat/completions",
}
DURATION = "assisters.client.request.duration"
CLIENTS = ("httpx", "httpx async", "httpx2", "httpx2 async", "openai", "requests", "aiohttp")
INSTRUMENTATIONS = (
    "opentelemetry-instrumentation-requests",
    "opentelemetry-instrumentation-aiohttp-client",
)
"""OpenTelemetry's own that no install of the package brings."""


class Api(BaseHTTPRequestHandler):
    """Answers every request with the same error."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        body = json.dumps(ENVELOPE).encode()
        self.send_response(429)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-ID", "req_1")
        self.send_header("Retry-After", "2")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def api() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def chat_by(name: str) -> Callable[[str], object]:
    """One request by a client of that name."""

    def httpx(url: str) -> object:
        module = __import__(name)
        return module.post(f"{url}/chat/completions", json={"model": "m"})

    def in_async(url: str) -> object:
        module = __import__(name.removesuffix(" async"))

        async def send() -> object:
            async with module.AsyncClient() as client:
                return await client.post(f"{url}/chat/completions", json={"model": "m"})

        return asyncio.run(send())

    def aiohttp(url: str) -> object:
        import aiohttp

        async def send() -> None:
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{url}/chat/completions", json={}) as response,
            ):
                assert (await response.json()) == ENVELOPE

        return asyncio.run(send())

    def openai(url: str) -> object:
        import openai

        with (
            openai.OpenAI(base_url=url, api_key="ask_k", max_retries=0) as client,
            contextlib.suppress(openai.RateLimitError),
        ):
            client.chat.completions.create(model="m", messages=[])
        return None

    own = {"aiohttp": aiohttp, "openai": openai, "requests": httpx}
    return own.get(name) or (in_async if name.endswith(" async") else httpx)


def seen_of(client: str, **arguments: Any) -> None:
    """A failed attempt by *client* arrives as a span with the error, and in the metrics."""
    with Collector() as collector, api() as url:
        where = {"endpoint": collector.endpoint, "protocol": "http/protobuf"}
        with assisters_otel.init("shop", hosts=[url], strict=True, **where, **arguments) as on:
            chat_by(client)(url)
            assert on.flush(5)
            spans = [one for one in collector.spans() if one.kind == "CLIENT"]
            attempts = [one for one in spans if "http.request.method" in one.attributes]
            assert len(attempts) == 1, attempts
            assert attempts[0].scope == "assisters_otel"
            told = attempts[0].attributes
            assert {name: told.get(name) for name in EXPECTED} == EXPECTED, told
            assert attempts[0].status == ("ERROR", "rate_limit_exceeded")
            if client == "openai":
                (call,) = [one for one in spans if one is not attempts[0]]
                assert call.attributes["assisters.call.outcome"] == "failed"
            (point,) = collector.points(DURATION)
            assert point.count == 1
            assert point.attributes["error.code"] == "rate_limit_exceeded"
            status = on.status()
            assert (status.attempts, status.last_failure) == (1, None), status
    assert [name for name in os.environ if name.startswith("OTEL_")] == []


def seen_of_all() -> None:
    """Every client that is installed is seen, without an instrumentation of OpenTelemetry's."""
    assert not list(filter(_installed, INSTRUMENTATIONS))
    for client in CLIENTS:
        if find_spec(client.removesuffix(" async")):
            seen_of(client)


def raised(kind: type[BaseException], act: Callable[[], object]) -> str:
    try:
        act()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / arguments[0], *arguments[1:]],
        cwd=tempfile.gettempdir(),  # not under this project's own settings
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def core() -> None:
    """The bare install traces every client, and says what each extra would bring."""
    seen_of_all()
    told = raised(ValueError, lambda: assisters_otel.init("shop", protocol="grpc", strict=True))
    assert "assisters-otel[grpc]" in told, told
    told = raised(ImportError, lambda: __import__("assisters_otel.testing").testing.FakeApi)
    assert "assisters-otel[testing]" in told, told
    done = command("assisters-otel", "--help")
    assert done.returncode == 2, done
    assert "pip install 'assisters-otel[cli]'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    from assisters_otel import AssistersInstrumentor

    (point,) = [one for one in importlib.metadata.entry_points(group="opentelemetry_instrumentor")
                if one.name == "assisters"]  # fmt: skip
    assert point.load() is AssistersInstrumentor


def empty() -> None:
    """The extras that bring nothing install, and each client is traced as without them."""
    seen_of_all()


def auto() -> None:
    """`opentelemetry-instrument` switches the library on."""
    script = (
        "import sys, httpx; httpx.post(sys.argv[1] + '/chat/completions', json={}); "
        "from opentelemetry import trace, metrics; trace.get_tracer_provider().force_flush(); "
        "metrics.get_meter_provider().force_flush()"
    )
    with Collector() as collector, api() as url:
        done = command(
            "opentelemetry-instrument", sys.executable, "-c", script, url,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            ASSISTERS_OTEL_HOSTS=url.partition("://")[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        (span,) = [one for one in collector.spans() if one.kind == "CLIENT"]
        assert span.scope == "opentelemetry.instrumentation.httpx"  # which it switches on as well
        assert {name: span.attributes.get(name) for name in EXPECTED} == EXPECTED
        assert collector.points(DURATION)


@contextmanager
def grpc_collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP receiver over gRPC: its address, and what has arrived."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

    arrived: list[bytes] = []

    class Traces(trace_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - gRPC's name
            arrived.append(request.SerializeToString())
            return trace.ExportTraceServiceResponse()

    class Metrics(metrics_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
            arrived.append(request.SerializeToString())
            return metrics.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", arrived
    finally:
        server.stop(None).wait()


def grpc() -> None:
    """Spans and metrics arrive over gRPC."""
    with grpc_collector() as (endpoint, arrived), api() as url:
        to = {"endpoint": endpoint, "protocol": "grpc"}
        with assisters_otel.init("shop", hosts=[url], strict=True, **to) as on:
            chat_by("httpx")(url)
            assert on.flush(10)
            assert on.status().last_failure is None
    assert any(b"rate_limit_exceeded" in one and b"req_1" in one for one in arrived), arrived
    assert any(DURATION.encode() in one for one in arrived), arrived


def config() -> None:
    """A configuration file describes the providers."""
    exporter = "{{exporter: {{otlp_http: {{endpoint: {}/v1/{}}}}}}}"
    with (
        Collector() as collector,
        api() as url,
        tempfile.NamedTemporaryFile("w", suffix=".yaml") as file,
    ):
        spans, points = (exporter.format(collector.endpoint, one) for one in ("traces", "metrics"))
        file.write(
            "file_format: '1.0'\n"
            "resource: {attributes: [{name: service.name, value: of-file}]}\n"
            f"tracer_provider: {{processors: [{{batch: {spans}}}]}}\n"
            f"meter_provider: {{readers: [{{periodic: {points}}}]}}\n"
        )
        file.flush()
        os.environ["OTEL_CONFIG_FILE"] = file.name
        with assisters_otel.init(hosts=[url], strict=True) as on:
            chat_by("httpx")(url)
            assert on.flush(5)
        (span,) = collector.spans()
        assert {name: span.attributes.get(name) for name in EXPECTED} == EXPECTED
        (point,) = collector.points(DURATION)
        assert span.resource["service.name"] == point.resource["service.name"] == "of-file"


def testing() -> None:
    """`FakeApi` answers, and pytest has its fixture."""
    import httpx

    from assisters_otel.testing import FakeApi

    with FakeApi() as fake:
        fake.answers("rate_limit_exceeded", "ok")
        statuses = [httpx.post(f"{fake.url}/chat/completions", json={"model": "m"}).status_code
                    for _ in range(2)]  # fmt: skip
        assert statuses == [429, 200], statuses
    if find_spec("pytest"):
        with tempfile.TemporaryDirectory() as empty:
            done = command("pytest", "--fixtures", "--rootdir", empty, empty)
        assert "assisters_api" in done.stdout, done.stdout


def cli() -> None:
    """Each command runs, and the demo says what it needs."""
    for arguments in (["--help"], ["errors"], ["errors", "--json"], ["explain", "--help"],
                      ["fake-api", "--help"]):  # fmt: skip
        done = command("assisters-otel", *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout, arguments
    with Collector() as collector:
        done = command("assisters-otel", "doctor", "--json", "--endpoint", collector.endpoint)
        assert "Traceback" not in done.stderr, done.stderr
        document = json.loads(done.stdout)
        assert not [one for one in document["findings"]
                    if one["check"] == "versions" and not one["fine"]], document  # fmt: skip
    if not find_spec("starlette"):
        done = command("assisters-otel", "fake-api")
        assert done.returncode == 2, done
        assert "pip install 'assisters-otel[testing]'" in done.stderr, done.stderr
    if not find_spec("openai"):
        done = command("assisters-otel", "demo")
        assert done.returncode == 2, done
        assert "pip install 'assisters-otel[demo]'" in done.stderr, done.stderr


def demo() -> None:
    """The demo comes out as it should."""
    done = command("assisters-otel", "demo", "--json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    json.loads(done.stdout)


CHECKS = (core, empty, auto, grpc, config, testing, cli, demo)


def main() -> int:
    logging.basicConfig(level=logging.WARNING)
    next(one for one in CHECKS if one.__name__ == sys.argv[1])()
    names = ("opentelemetry-sdk", "opentelemetry-instrumentation-httpx", "httpx", "requests",
             "aiohttp", "wrapt")  # fmt: skip
    told = [f"{one} {importlib.metadata.version(one)}" for one in names if _installed(one)]
    print(", ".join(told))
    return 0


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
