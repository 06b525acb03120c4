"""What a collector has taken, as its last answer says, and what is told where it has not."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc
import pytest
import requests
import trustme
from cryptography.hazmat.primitives import serialization
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

import assisters_otel
from assisters_otel.providers import exporter_specs, otlp_settings, owned_providers, signals
from assisters_otel.providers.build import build_providers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNALS = ("traces", "metrics")
KEY = "ask_0123456789abcdefghijklmnop"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str] = {}  # noqa: RUF012 - never written to
    body: bytes = b""
    endless_s: float | None = None  # the body comes again and again, with that pause


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers every request with `answer`, or with what that returns for its path."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answer: Answer | Callable[[str], Answer] = Answer(200, PROTOBUF)
        self.requests: list[Request] = []
        self.pieces = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.handle_error = lambda *_: None  # a client that does not trust us has gone
        if context is not None:
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append(Request(self.command, self.path, headers, body))
                answer = outer.answer
                status, headers, body, endless_s = answer(self.path) if callable(answer) else answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if endless_s is None:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                while endless_s is not None:  # until the client closes the connection
                    outer.pieces += 1
                    time.sleep(endless_s)
                    self.wfile.write(body)

            def do_POST(self) -> None:
                self._any()

            def do_GET(self) -> None:
                self._any()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def receive(answer=None, context=None) -> Receiver:
        one = Receiver(context)
        one.answer = answer or one.answer
        made.append(one)
        threading.Thread(target=one.server.serve_forever, args=(0.02,)).start()
        return one

    yield receive
    for one in made:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "REQUESTS_", "CURL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def dead() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


class Tls(NamedTuple):
    """A receiver's TLS, and files of certificates: its CA's, another CA's, its client's."""

    context: ssl.SSLContext
    ca: str
    other_ca: str
    client: str
    client_key: str
    other_key: str


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    issued, foreign = authority.issue_cert("127.0.0.1"), other.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "client.pem")
    issued.private_key_pem.write_to_path(folder / "client.key")
    foreign.private_key_pem.write_to_path(folder / "other.key")
    names = ("ca.pem", "other.pem", "client.pem", "client.key", "other.key")
    return Tls(context, *(str(folder / name) for name in names))


def build(
    endpoint: str | None, signal: str | None = None, **arguments
) -> owned_providers.OwnedProviders:
    given = {"service_name": None, "headers": None, "protocol": None} | arguments
    return build_providers(
        traces=signal in {None, "traces"},
        metrics=signal in {None, "metrics"},
        endpoint=endpoint,
        **given,
    )


def record(exports: owned_providers.OwnedProviders) -> None:
    if exports.tracer_provider:
        exports.tracer_provider.get_tracer("app").start_span("one").end()
    if exports.meter_provider:
        exports.meter_provider.get_meter("app").create_counter("count").add(1)


@contextmanager
def built(*arguments, **more) -> Iterator[owned_providers.OwnedProviders]:
    exports = build(*arguments, **more)
    try:
        yield exports
    finally:
        exports.shutdown(0.1)


@pytest.fixture
def flushed(caplog) -> Callable[..., tuple[bool, list[str]]]:
    """Record one of a signal and flush it: what flush says, and the warnings."""

    def flushed(endpoint: str | None, signal: str | None = None, **more) -> tuple[bool, list[str]]:
        caplog.clear()
        with built(endpoint, signal, **more) as exports:
            record(exports)
            done = exports.flush(10)
            # Before the end, whose tenth of a second a busy machine does not keep.
            told = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert {r.name for r in told} <= {"assisters_otel"}
        return done, [r.getMessage() for r in told]

    return flushed


def rejecting(signal: str, number: int, text: str = "") -> bytes:
    if signal == "traces":
        answer = trace_service_pb2.ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = number
    else:
        answer = metrics_service_pb2.ExportMetricsServiceResponse()
        answer.partial_success.rejected_data_points = number
    answer.partial_success.error_message = text
    return answer.SerializeToString()


# What is answered, for a signal; what the warning says.
REFUSALS = {
    "301": (lambda _: Answer(301, {"Location": "/login"}), "(HTTP 301 to http://127.0.0.1:"),
    "302": (
        lambda _: Answer(302, {"Location": "http://sso.test/login"}),
        "302 to http://sso.test/",
    ),
    "303": (
        lambda _: Answer(303, {"Location": "http://sso.test/login"}),
        "303 to http://sso.test/",
    ),
    "302 that shows a key": (
        lambda _: Answer(302, {"Location": f"http://u:{KEY}@sso.test/{KEY}?token={KEY}#{KEY}"}),
        "302 to http://sso.test/",
    ),
    "300": (lambda _: Answer(300, {"Location": "/a"}), "HTTP 300"),
    "304": (lambda _: Answer(304), "HTTP 304"),
    "302 to nowhere": (lambda _: Answer(302), "(HTTP 302)"),
    "307 to nowhere": (lambda _: Answer(307), "(HTTP 307)"),
    "308 to nowhere": (lambda _: Answer(308), "(HTTP 308)"),
    "307 to a file": (lambda _: Answer(307, {"Location": "file:///etc/x"}), "307 to file:/etc/x"),
    "307 to no URL": (lambda _: Answer(307, {"Location": "http://[::1"}), "HTTP 307"),
    "307 to an odd host": (lambda _: Answer(307, {"Location": "http://*.x:1/"}), "which is no URL"),
    "307 in a circle": (lambda _: Answer(307, {"Location": "/v1/traces"}), "HTTP 307 more than"),
    "308 in a circle": (lambda _: Answer(308, {"Location": ""}), "HTTP 308"),
    "a page": (
        lambda _: Answer(200, {"Content-Type": "text/html"}, b"<html></html>"),
        "HTTP 200 with an HTML page",
    ),
    "a page in capitals": (
        lambda _: Answer(200, {"Content-Type": "Text/HTML; charset=utf-8"}, b"x"),
        "HTTP 200 with an HTML page",
    ),
    "a page of XHTML": (
        lambda _: Answer(201, {"Content-Type": "application/xhtml+xml"}, b"<html/>"),
        "HTTP 201 with an HTML page",
    ),
    "a page that says nothing of itself": (
        lambda _: Answer(200, {}, b"\n<!doctype html>\n<title>"),
        "HTTP 200 with an HTML page",
    ),
    "all rejected": (
        lambda signal: Answer(200, PROTOBUF, rejecting(signal, 1, f"no room for {KEY}\n\x00")),
        "(1 rejected: no room for",
    ),
    "rejected without a word": (
        lambda signal: Answer(202, PROTOBUF, rejecting(signal, 7)),
        "(7 rejected)",
    ),
    "rejected by JSON": (
        lambda signal: Answer(
            200,
            {"Content-Type": "application/json; charset=utf-8"},
            json.dumps(
                {
                    "partialSuccess": {
                        "rejectedSpans" if signal == "traces" else "rejectedDataPoints": "3"
                    },
                    "more": 1,
                }
            ).encode(),
        ),
        "(3 rejected)",
    ),
    "400": (lambda _: Answer(400), "HTTP 400"),
    "404": (lambda _: Answer(404, {"Content-Type": "text/html"}, b"<html>"), "HTTP 404"),
    "429": (lambda _: Answer(429), "(HTTP 429)"),
    "500": (lambda _: Answer(500), "(HTTP 500)"),
    "503": (lambda _: Answer(503), "(HTTP 503)"),
}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_a_collector_has_not_taken_is_lost_with_one_warning(flushed, receive, refusal, signal):
    answer, says = REFUSALS[refusal]
    receiver = receive(answer(signal))

    done, told = flushed(receiver.url, signal)

    assert done is False
    assert len(told) == 1
    assert says in told[0]
    assert f"get through to {receiver.url} (" in told[0]
    assert KEY not in told[0]
    assert told[0].isprintable()
    assert {request.method for request in receiver.requests} == {"POST"}


@pytest.fixture
def silenced() -> Iterator[None]:
    """An app that wants to hear nothing of OpenTelemetry: its loggers then call no filter."""
    logger = logging.getLogger("opentelemetry")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("silenced")
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_app_that_silences_opentelemetry_reads_the_status_all_the_same(
    flushed, receive, monkeypatch, signal, status
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")

    done, told = flushed(receive(Answer(status)).url, signal)

    assert done is False
    assert [f"(HTTP {status})" in one for one in told] == [True]


@pytest.mark.usefixtures("silenced")
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_app_that_silences_opentelemetry_reads_that_nobody_is_there(
    flushed, dead, monkeypatch, protocol
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")

    done, told = flushed(dead, "traces", protocol=protocol)

    assert done is False
    why = {"grpc": "UNAVAILABLE", "http/protobuf": "ConnectionError: Connection refused"}[protocol]
    assert [f"({why})" in one for one in told] == [True]


TAKEN = {
    "200": lambda _: Answer(200),
    "204": lambda _: Answer(204),
    "202 in words": lambda _: Answer(202, {"Content-Type": "text/plain"}, b"ok"),
    "an empty answer": lambda _: Answer(200, PROTOBUF),
    "none rejected": lambda signal: Answer(200, PROTOBUF, rejecting(signal, 0)),
    "advice": lambda signal: Answer(200, PROTOBUF, rejecting(signal, 0, "use gzip")),
    "less than none rejected": lambda signal: Answer(200, PROTOBUF, rejecting(signal, -1)),
    "garbage": lambda _: Answer(200, PROTOBUF, b"\xff\xff\xff"),
    "half a document": lambda _: Answer(200, {"Content-Type": "application/json"}, b'{"partial'),
    "a deep document": lambda _: Answer(
        200, {"Content-Type": "application/json"}, b'{"a":' + b"[" * 50_000
    ),
    "a list": lambda _: Answer(200, {"Content-Type": "application/json"}, b"[]"),
    "a long answer": lambda _: Answer(200, PROTOBUF, b"x" * 200_000),
}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("answer", TAKEN)
def test_a_success_that_rejects_nothing_is_taken(flushed, receive, answer, signal):
    receiver = receive(TAKEN[answer](signal))

    assert flushed(receiver.url, signal) == (True, [])


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_a_redirect_keeps_arrives_as_it_was_sent(
    flushed, receive, monkeypatch, status, signal, compression
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    last = receive()
    middle = receive(lambda path: Answer(status, {"Location": f"{last.url}/at/last{path}?x=1"}))
    first = receive(lambda path: Answer(status, {"Location": f"{middle.url}{path}"}))

    assert flushed(first.url, signal) == (True, [])

    sent, arrived = first.requests[0], last.requests[0]
    assert arrived.method == "POST"
    assert arrived.path == f"/at/last/v1/{signal}?x=1"
    assert arrived.body == sent.body != b""
    for name in ("content-type", "content-encoding", "content-length"):
        assert arrived.headers.get(name) == sent.headers.get(name)


def test_a_relative_redirect_stays_on_its_host_and_keeps_its_headers(flushed, receive):
    receiver = receive(
        lambda path: Answer(200) if path == "/moved" else Answer(307, {"Location": "/moved"})
    )

    done, _ = flushed(receiver.url, "traces", headers={"authorization": f"Bearer {KEY}"})

    assert done is True
    assert [one.path for one in receiver.requests] == ["/v1/traces", "/moved"]
    assert receiver.requests[1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", ["authorization", "x-honeycomb-team", "cookie"])
@pytest.mark.parametrize("by", ["argument", "variable"])
@pytest.mark.parametrize("elsewhere", ["port", "name", "scheme"])
def test_a_header_of_the_users_does_not_follow_to_another_host(
    flushed, receive, tls, monkeypatch, signal, name, by, elsewhere
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", tls.ca)
    other = receive()
    target = other.url.replace("127.0.0.1", "localhost") if elsewhere == "name" else other.url
    context = tls.context if elsewhere == "scheme" else None
    first = receive(lambda path: Answer(308, {"Location": f"{target}{path}"}), context)
    given = {"headers": {name: KEY}} if by == "argument" else {}
    if by == "variable":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"{name}={KEY}")

    done, _ = flushed(first.url, signal, **given)

    assert done is True
    assert first.requests[0].headers[name] == KEY
    assert KEY not in str(other.requests[0].headers)
    assert name not in other.requests[0].headers


def test_a_header_does_not_come_back_by_way_of_another_host(flushed, receive):
    def back(_: str) -> Answer:
        return Answer(307, {"Location": f"{home.url}/end"})

    other = receive(back)
    home = receive(
        lambda path: Answer(200) if path == "/end" else Answer(307, {"Location": other.url + "/x"})
    )

    assert flushed(home.url, "traces", headers={"api-key": KEY}) == (True, [])
    assert "api-key" not in home.requests[-1].headers


@pytest.mark.parametrize("status", [401, 404, 413])
def test_a_refusal_behind_a_redirect_says_who_refuses(flushed, receive, status):
    other = receive(Answer(status))
    first = receive(lambda path: Answer(307, {"Location": f"{other.url}{path}?key={KEY}"}))

    done, (told,) = flushed(first.url, "traces")

    assert done is False
    assert f"(HTTP {status} from {other.url}/v1/traces, after a redirect)" in told


def test_nobody_behind_a_redirect_is_told_with_the_redirect(flushed, receive, monkeypatch, dead):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    first = receive(lambda path: Answer(307, {"Location": f"{dead}{path}"}))

    done, (told,) = flushed(first.url, "traces")

    assert done is False
    assert f"(HTTP 307 to {dead}/v1/traces: ConnectionError: Connection refused)" in told


CHUNKED = {"Transfer-Encoding": "chunked"}
EVENT = b": ping\n\n"

# An answer whose body never ends, in how it is framed.
ENDLESS = {
    "until the close": Answer(200, {"Content-Type": "text/event-stream"}, EVENT),
    "in chunks": Answer(200, CHUNKED, b"8\r\n" + EVENT + b"\r\n"),
    "of a length that it never reaches": Answer(200, {"Content-Length": "100000000"}, EVENT),
    "of a refusal": Answer(400, {}, EVENT),
}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("framed", ENDLESS)
@pytest.mark.parametrize("way", ["at once", "behind a redirect"])
def test_an_answer_that_does_not_end_in_time_is_told(
    flushed, receive, monkeypatch, framed, way, signal
):
    """requests' time limit is one of each read: every export after this one waited for ever."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.4")
    receiver = receive(ENDLESS[framed]._replace(endless_s=0.05))
    first = receive(lambda path: Answer(307, {"Location": f"{receiver.url}{path}"}))
    start_s = time.monotonic()

    done, (told,) = flushed((receiver if way == "at once" else first).url, signal)

    assert done is False
    assert ("HTTP 400" if framed == "of a refusal" else "ReadTimeout)") in told
    assert 0.2 < time.monotonic() - start_s < 8


@pytest.mark.parametrize("framed", ENDLESS)
def test_an_answer_that_comes_without_end_is_not_read_to_its_end(flushed, receive, framed):
    endless = ENDLESS[framed]
    if framed == "in chunks":
        endless = endless._replace(body=b"400\r\n" + bytes(1024) + b"\r\n")
    receiver = receive(endless._replace(endless_s=0, body=endless.body * 100))

    done, told = flushed(receiver.url, "traces")

    assert done is (framed != "of a refusal")
    assert len(told) == (framed == "of a refusal")
    wait_until_it_ends(receiver)


def wait_until_it_ends(receiver: Receiver) -> None:
    """Wait until a receiver writes no more: the client has closed the connection."""
    end_s = time.monotonic() + 10
    before = -1
    while before != receiver.pieces:
        assert time.monotonic() < end_s
        before = receiver.pieces
        time.sleep(0.3)


def test_a_connection_is_kept_after_an_answer_that_ends(receive):
    receiver = receive()
    receiver.server.RequestHandlerClass.protocol_version = "HTTP/1.1"
    accepted = []
    accept = receiver.server.get_request
    receiver.server.get_request = lambda: accepted.append(1) or accept()

    with built(receiver.url, "traces") as exports:
        for _ in range(3):
            record(exports)
            assert exports.flush(10) is True

    assert len(receiver.requests) == 3
    assert len(accepted) == 1


def test_a_batch_that_is_rejected_is_not_forgotten_for_one_that_is_taken(receive, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    flushing = threading.Event()

    def answer(_: str) -> Answer:
        flushing.wait(5)  # the first is under way already when it is flushed
        is_first = len(receiver.requests) == 1
        return Answer(200, PROTOBUF, rejecting("traces", 1 if is_first else 0))

    receiver = receive(answer)
    with built(receiver.url, "traces") as exports:
        record(exports)
        record(exports)

        threading.Timer(0.5, flushing.set).start()
        assert exports.flush(10) is False
        assert len(receiver.requests) == 2
        record(exports)
        assert exports.flush(10) is True


def test_a_rejection_that_is_over_is_told_as_over(receive, caplog):
    caplog.set_level(logging.INFO, "assisters_otel")
    receiver = receive(Answer(200, PROTOBUF, rejecting("traces", 1, "full")))
    with built(receiver.url, "traces") as exports:
        for _ in range(3):
            record(exports)
            assert exports.flush(10) is False
        receiver.answer = Answer(200)
        record(exports)
        assert exports.flush(10) is True

    assert [r.getMessage() for r in caplog.records] == [
        (
            f"telemetry does not get through to {receiver.url} (1 rejected: full): spans are "
            "dropped until it does; this is said once"
        ),
        f"telemetry gets through to {receiver.url} again",
    ]


class Credentials:
    """Gives what an entry point would: a session of its own, which the app uses, too."""

    made = requests.Session()

    def load(self):
        return lambda: self.made


@pytest.mark.parametrize("answer", ["302", "all rejected"])
def test_a_session_of_a_credential_provider_is_looked_at_as_well(
    flushed, receive, monkeypatch, answer
):
    from assisters_otel.providers import otlp_http

    receiver = receive(REFUSALS[answer][0]("traces"))
    Credentials.made = requests.Session()
    Credentials.made.headers["x-token"] = KEY
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "mine")
    monkeypatch.setattr(otlp_http, "load_entry_point", lambda *_: Credentials().load())

    done, told = flushed(receiver.url, "traces")
    by_the_app = Credentials.made.post(f"{receiver.url}/v1/traces", allow_redirects=False)
    Credentials.made.close()

    assert done is False
    assert len(told) == 1
    assert receiver.requests[0].headers["x-token"] == KEY
    assert by_the_app.status_code in {200, 302}


def test_a_session_of_a_credential_provider_is_looked_at_once(flushed, receive, monkeypatch):
    from assisters_otel.providers import otlp_http

    receiver = receive(lambda _: Answer(307, {"Location": "/v1/traces"}))
    Credentials.made = requests.Session()
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "mine")
    monkeypatch.setattr(otlp_http, "load_entry_point", lambda *_: Credentials().load())

    for _ in range(2):
        assert flushed(receiver.url, "traces")[0] is False
    Credentials.made.close()

    (adapter,) = [a for p, a in Credentials.made.adapters.items() if p.endswith("traces")]
    assert type(adapter.adapter) is requests.adapters.HTTPAdapter


def test_a_credential_provider_that_gives_something_else_is_told(monkeypatch):
    from assisters_otel.providers import otlp_http

    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "mine")
    monkeypatch.setattr(otlp_http, "load_entry_point", lambda *_: object)

    with pytest.raises(ValueError, match="CREDENTIAL_PROVIDER: 'mine' gives no session"):
        build("http://localhost:9", "traces")


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    answer = b""

    def Export(self, request, context):  # noqa: ARG002, N802 - gRPC's
        return trace_service_pb2.ExportTraceServiceResponse.FromString(self.answer)


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    answer = b""

    def Export(self, request, context):  # noqa: ARG002, N802 - gRPC's
        return metrics_service_pb2.ExportMetricsServiceResponse.FromString(self.answer)


@pytest.fixture
def by_grpc() -> Iterator[Callable[..., str]]:
    """Start a receiver of OTLP over gRPC, with these answers; its URL."""
    server = grpc.server(futures.ThreadPoolExecutor(2))

    def by_grpc(answers: dict[str, bytes], credentials=None) -> str:
        traces, metrics = Traces(), Metrics()
        traces.answer, metrics.answer = answers.get("traces", b""), answers.get("metrics", b"")
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces, server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(metrics, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        return f"{'https' if credentials else 'http'}://127.0.0.1:{port}"

    yield by_grpc
    server.stop(None).wait()


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    ("number", "text", "says"),
    [(2, "too old", "(2 rejected: too old)"), (1, "", "(1 rejected)"), (0, "advice", None)],
)
def test_what_a_receiver_rejects_is_not_taken(flushed, by_grpc, signal, number, text, says):
    url = by_grpc({signal: rejecting(signal, number, text)})

    done, told = flushed(url, signal, protocol="grpc")

    assert done is (says is None)
    assert [says in one for one in told] == ([] if says is None else [True])


def test_by_grpc_an_end_that_is_not_waited_for_is_no_cancellation(caplog):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and accepts nobody
        exports = build(f"http://127.0.0.1:{silent.getsockname()[1]}", "traces", protocol="grpc")
        record(exports)

        assert exports.shutdown(0.3) is False

    (told,) = [r.getMessage() for r in caplog.records]
    assert "(no answer in time)" in told


def test_a_client_that_is_made_anew_is_looked_at_as_well(by_grpc):
    url = by_grpc({"traces": rejecting("traces", 1)})
    route = exporter_specs.exporter_specs(
        signals.TRACES, otlp_settings.OtlpArguments(url, None, "grpc")
    )[0]
    delivery = route.delivery(signals.TRACES, {})
    exporter = route.span_exporter(delivery)
    exporter._channel.close()
    exporter._initialize_channel_and_stub()  # as it does after a connection is lost

    with pytest.raises(Exception, match="1 rejected"):
        exporter.export([])
    exporter.shutdown()


@pytest.fixture
def call(monkeypatch, capsys):
    from assisters_otel import cli

    class Ended(NamedTuple):
        code: int
        out: str

    def call(*arguments: str, **variables: str) -> Ended:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["assisters-otel", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), capsys.readouterr().out)

    return call


@pytest.mark.parametrize(
    ("answer", "text", "to_do"),
    [
        (Answer(302, {"Location": "/login"}), "HTTP 302 to ", "Name the receiver itself"),
        (Answer(307), "HTTP 307", "Name the receiver itself"),
        (REFUSALS["a page"][0](""), "with an HTML page", "no OTLP receiver's base URL"),
        (Answer(200, PROTOBUF, rejecting("traces", 1, "old")), "1 rejected: old", "its own log"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_doctor_says_what_was_answered(call, receive, answer, text, to_do):
    receiver = receive(answer)

    done = call("doctor", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)

    wrong = [o for o in json.loads(done.out)["findings"] if o["check"] == "arrival"]
    assert done.code == 1
    assert [one["fine"] for one in wrong] == [False, False]
    assert all(text in one["what"] and to_do in one["to_do"] for one in wrong)


@pytest.fixture
def odd(tmp_path) -> dict[str, str]:
    """Give paths that name no file of certificates, by what is wrong with them."""
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "words.pem").write_text("no certificate\n")
    (tmp_path / "loop.pem").symlink_to(tmp_path / "loop.pem")
    return {
        "missing": str(tmp_path / "nowhere.pem"),
        "directory": str(tmp_path),
        "empty": str(tmp_path / "empty.pem"),
        "words": str(tmp_path / "words.pem"),
        "a loop": str(tmp_path / "loop.pem"),
        "a secret": "-----BEGIN PRIVATE KEY-----\nMIIsecretsecret\n-----END PRIVATE KEY-----\n",
        "a key": f"/run/{KEY}/ca.pem",
    }


ODD = ("missing", "directory", "empty", "words", "a loop", "a secret", "a key")
CA_VARIABLES = ("CERTIFICATE", "{}_CERTIFICATE")
CLIENT_VARIABLES = ("CLIENT_CERTIFICATE", "{}_CLIENT_CERTIFICATE", "CLIENT_KEY", "{}_CLIENT_KEY")


def full(variable: str, signal: str) -> str:
    return f"OTEL_EXPORTER_OTLP_{variable.format(signal.upper())}"


def see_named(text: str, variable: str, path: str) -> None:
    """See that a text names what is wrong, and neither a class nor the collector."""
    assert variable in text
    assert "secretsecret" not in text
    assert KEY not in text
    assert KEY in path or "BEGIN" in path or path in text
    assert "Write the path" in text
    assert "Error" not in text
    assert "log" not in text


@pytest.mark.sampled
@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("variable", [*CA_VARIABLES, *CLIENT_VARIABLES])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_file_for_tls_that_cannot_be_used_is_named(
    flushed, receive, tls, odd, monkeypatch, signal, variable, what
):
    receiver = receive(context=tls.context)
    monkeypatch.setenv(full("CERTIFICATE", signal), tls.ca)
    if "CLIENT" in variable:
        monkeypatch.setenv(full("CLIENT_CERTIFICATE", signal), tls.client)
        monkeypatch.setenv(full("CLIENT_KEY", signal), tls.client_key)
    monkeypatch.setenv(full(variable, signal), odd[what])

    done, told = flushed(receiver.url, signal)

    assert done is False
    assert len(told) == 1
    see_named(told[0], full(variable, signal), odd[what])


def test_a_file_that_is_not_there_is_one_warning_for_both_signals(flushed, monkeypatch, dead):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")

    done, told = flushed(dead.replace("http:", "https:"))

    assert done is False
    assert len(told) == 1
    see_named(told[0], "OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
    assert "spans and metrics" in told[0] or "metrics and spans" in told[0]


def test_a_file_that_comes_late_is_found(receive, tls, monkeypatch, tmp_path):
    late = tmp_path / "late.pem"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(late))
    receiver = receive(context=tls.context)
    with built(receiver.url, "traces") as exports:
        record(exports)
        assert exports.flush(10) is False
        late.write_bytes(Path(tls.ca).read_bytes())
        record(exports)
        assert exports.flush(10) is True


def test_the_key_of_another_certificate_is_named(flushed, receive, tls, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", tls.ca)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", tls.client)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", tls.other_key)
    receiver = receive(context=tls.context)

    done, (told,) = flushed(receiver.url, "traces")

    assert done is False
    see_named(told, "OTEL_EXPORTER_OTLP_CLIENT_KEY", tls.other_key)


def test_a_key_with_a_password_is_named(flushed, receive, tls, monkeypatch, tmp_path):
    key = serialization.load_pem_private_key(Path(tls.client_key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secretsecret"),
        )
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", tls.ca)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", tls.client)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(locked))

    done, (told,) = flushed(receive(context=tls.context).url, "traces")

    assert done is False
    see_named(told, "OTEL_EXPORTER_OTLP_CLIENT_KEY", str(locked))
    assert "without a password" in told


def test_files_that_can_be_used_are_used(flushed, receive, tls, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", tls.ca)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", tls.client)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", tls.client_key)

    assert flushed(receive(context=tls.context).url) == (True, [])


@pytest.mark.parametrize("bundle", [None, "OTEL_EXPORTER_OTLP_CERTIFICATE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_that_is_not_trusted_says_where_the_bundle_is_named(
    flushed, receive, tls, monkeypatch, bundle
):
    if bundle:
        monkeypatch.setenv(bundle, tls.other_ca)

    done, told = flushed(receive(context=tls.context).url)

    assert done is False
    assert len(told) == 1
    assert "certificate is not trusted" in told[0]
    assert (bundle or "OTEL_EXPORTER_OTLP_CERTIFICATE") in told[0]
    assert (tls.other_ca in told[0]) is bool(bundle)


def test_a_certificate_for_another_name_says_so(flushed, receive, tls, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", tls.ca)
    receiver = receive(context=tls.context)

    done, (told,) = flushed(receiver.url.replace("127.0.0.1", "localhost"), "traces")

    assert done is False
    assert "Name the receiver in the endpoint as its certificate does" in told


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("good", ["theirs", "ours", "neither"])
def test_the_bundle_that_is_used_is_the_one_that_is_named(
    flushed, receive, tls, monkeypatch, variable, good
):
    """Which one wins is the exporter's: from 1.45 on it is that of requests, before it is ours."""
    monkeypatch.setenv(variable, tls.ca if good == "theirs" else tls.other_ca)
    own = str(Path(tls.other_ca).with_name("own.pem"))
    Path(own).write_bytes(Path(tls.ca if good == "ours" else tls.other_ca).read_bytes())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", own)

    done, told = flushed(receive(context=tls.context).url)

    theirs_win = metadata.version("opentelemetry-exporter-otlp-proto-http") >= "1.45"
    assert done is (good == ("theirs" if theirs_win else "ours"))
    for line in told:
        wrong = f"The CA bundle is the one that {variable} names, {tls.other_ca!r}: requests takes"
        assert (wrong in line) is theirs_win
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in line


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_by_grpc_a_file_that_cannot_be_used_is_named(odd, monkeypatch, signal, variable, what):
    name = full(variable, signal)
    monkeypatch.setenv(name, odd[what])

    with pytest.raises(ValueError, match=name) as raised:
        build("https://localhost:9", signal, protocol="grpc")

    see_named(str(raised.value), name, odd[what])
    build("http://localhost:9", signal, protocol="grpc").shutdown(0)


def test_by_grpc_a_certificate_that_is_not_trusted_is_told(flushed, by_grpc, tls, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    credentials = grpc.ssl_server_credentials(
        [(Path(tls.client_key).read_bytes(), Path(tls.client).read_bytes())]
    )
    url = by_grpc({}, credentials)

    done, told = flushed(url, "traces", protocol="grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", tls.ca)
    trusted = flushed(url, "traces", protocol="grpc")

    assert done is False
    assert len(told) == 1
    assert "certificate is not trusted" in told[0]
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in told[0]
    assert trusted == (True, [])


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("what", ["missing", "directory", "words"])
def test_doctor_names_a_file_that_cannot_be_used(call, odd, dead, protocol, what):
    done = call(
        "doctor",
        "--json",
        OTEL_EXPORTER_OTLP_ENDPOINT=dead.replace("http:", "https:"),
        OTEL_EXPORTER_OTLP_CERTIFICATE=odd[what],
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )

    wrong = [o for o in json.loads(done.out)["findings"] if o["check"] == "certificate"]
    assert done.code == 1
    assert [one["fine"] for one in wrong] == [False, False]
    for one in wrong:
        see_named(one["what"], "OTEL_EXPORTER_OTLP_CERTIFICATE", odd[what])
        assert "log" not in one["to_do"]


def test_doctor_says_that_a_certificate_is_not_trusted(call, receive, tls):
    receiver = receive(context=tls.context)

    done = call(
        "doctor",
        "--json",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_EXPORTER_OTLP_CERTIFICATE=tls.ca,
        REQUESTS_CA_BUNDLE=tls.other_ca,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )

    found = json.loads(done.out)["findings"]
    beside = [one for one in found if one["check"] == "certificate"]
    assert "REQUESTS_CA_BUNDLE is set beside OTEL_EXPORTER_OTLP_CERTIFICATE" in beside[0]["what"]
    arrivals = [one for one in found if one["check"] == "arrival" and not one["fine"]]
    for one in arrivals:  # exporter 1.44 takes the other bundle, and it arrives
        assert "certificate is not trusted" in one["what"]
        assert "log" not in one["to_do"]


def test_init_too_sees_a_page_for_what_it_is(receive, caplog):
    receiver = receive(REFUSALS["a page"][0](""))
    with assisters_otel.init("x", endpoint=receiver.url) as telemetry:
        telemetry._exports.tracer_provider.get_tracer("x").start_span("lost").end()

        assert telemetry.flush(10) is False

    assert "HTTP 200 with an HTML page" in caplog.text
