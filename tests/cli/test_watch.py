"""`watch`: what apps export is shown call by call, whoever exports it, and however much."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import pytest
from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

import assisters_otel
from assisters_otel.cli.watch import calls, counts, otlp, receiver
from assisters_otel.cli.watch.advice import advice
from assisters_otel.cli.watch.port_holder import port_holder
from assisters_otel.testing import FakeApi

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
pty = pytest.importorskip("pty")  # Windows has none

GREETING = re.compile(r"Watching on (\S+), until")


class Watching:
    """The command, in a process of its own, until the block ends."""

    def __init__(self, *arguments, stdout=subprocess.PIPE):
        self.arguments = arguments
        self.stdout = stdout
        self.url = None
        self._lines = {"stdout": queue.Queue(), "stderr": queue.Queue()}

    def __enter__(self):
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith("OTEL_")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assisters_otel", "watch", *self.arguments],
            env={**outside, "COLUMNS": "160"},
            stdout=self.stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, name))
            for name in self._lines
            if (stream := getattr(self.process, name)) is not None
        ]
        for reader in self._readers:
            reader.start()
        if self.stdout is subprocess.PIPE:
            greets = "stderr" if "--json" in self.arguments else "stdout"
            self.url = GREETING.search(self.line(greets))[1]
            self.line(greets)
        return self

    def _read(self, stream, name):
        for line in stream:
            self._lines[name].put(line)

    def line(self, name="stdout"):
        return self._lines[name].get(timeout=60)

    def end(self):
        """Interrupt it; return its exit code, and what it has printed that nobody has read."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        for reader in self._readers:
            reader.join(20)
        return self.process.returncode, *("".join(lines.queue) for lines in self._lines.values())

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        for reader in self._readers:
            reader.join(20)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="module")
def server():
    with FakeApi() as api:
        yield api


@pytest.fixture
def app(server):
    """Runs a step of an app that exports to a URL."""
    server.reset()

    def app(url, step):
        with assisters_otel.init("shop", hosts=[server.url], endpoint=url) as telemetry:
            step(server)
            assert telemetry.flush(10)

    return app


def chat(server, **options):
    """Ask what nobody has asked before: the same again would be a resend."""
    messages = [{"role": "user", "content": str(uuid.uuid4())}]
    with openai.OpenAI(base_url=server.url, api_key="ask_test", **options) as client:
        client.chat.completions.create(model="assisters-chat-v1", messages=messages)


def recovered(server):
    server.answers("rate_limit_exceeded", retry_after=0.1)
    server.answers("model_overloaded", "ok")
    chat(server)


def refused(server):
    server.answers("insufficient_funds", request_id="req_42", message="of a person's own")
    with suppress(openai.APIStatusError):
        chat(server)


# -- what is shown --------------------------------------------------------------------------------


def test_a_call_is_shown_as_a_tree_when_it_has_ended(app):
    with Watching("--port", "0") as watching:
        app(watching.url, recovered)
        title, call, retries, tokens, first = (watching.line() for _ in range(5))
        code, out, err = watching.end()

    assert re.match(r"\d\d:\d\d:\d\d  shop  trace [0-9a-f]{32}\n", title)
    assert call == "└── recovered  chat assisters-chat-v1\n"
    assert "2 retries" in retries
    assert tokens == "    1 token in, 5 tokens out\n"
    assert first == "    ├── 429 rate_limit_exceeded  POST /v1/chat/completions\n"
    assert "    └── 200 ok  POST /v1/chat/completions\n" in out
    assert out.endswith("1 call, 0 failed, 2 retries, 1 + 5 tokens\n")
    assert (code, err) == (0, "")


def test_a_failure_has_its_advice_each_time(app):
    with Watching("--port", "0") as watching:
        app(watching.url, lambda server: [refused(server), refused(server)])
        time.sleep(0.5)
        _, out, _ = watching.end()

    assert out.count("to do: Top up the wallet") == 2
    assert out.count("request id req_42") == 4 - 2
    assert "of a person" not in out
    assert out.endswith("2 calls, 2 failed (insufficient_funds 2), 0 retries\n")


def test_json_is_a_line_a_call(app):
    with Watching("--port", "0", "--json") as watching:
        app(watching.url, lambda server: [recovered(server), refused(server)])
        good, bad = json.loads(watching.line()), json.loads(watching.line())
        code, out, err = watching.end()

    assert (code, out) == (0, "")
    assert "2 calls, 1 failed (insufficient_funds 1), 2 retries" in err
    assert (good["service"], good["outcome"], good["retries"]) == ("shop", "recovered", 2)
    assert [one["status"] for one in good["attempts"]] == [429, 503, 200]
    assert [one["resend"] for one in good["attempts"]] == [0, 1, 2]
    assert (good["error"], good["advice"]) == (None, None)
    assert bad["error"] == {
        "code": "insufficient_funds",
        "type": "insufficient_funds_error",
        "param": None,
        "retryable": False,
    }
    assert bad["request_id"] == "req_42"
    assert bad["advice"].startswith("Top up the wallet")


def test_errors_shows_failures_alone_and_counts_the_rest(app):
    with Watching("--port", "0", "--errors") as watching:
        app(watching.url, lambda server: [chat(server), refused(server), recovered(server)])
        time.sleep(0.5)
        _, out, _ = watching.end()

    assert "insufficient_funds" in out
    assert "200 ok" not in out
    assert out.endswith("3 calls, 1 failed (insufficient_funds 1), 2 retries, 2 + 10 tokens\n")


def test_attempts_outside_a_call_and_streams_are_shown(app):
    def step(server):
        server.answers("api_key_revoked")
        httpx.get(server.url + "/models", trust_env=False)
        server.answers(fault="unfinished")
        httpx.post(server.url + "/chat/completions", json={"stream": True}, trust_env=False)

    with Watching("--port", "0", "--json") as watching:
        app(watching.url, step)
        first, second = json.loads(watching.line()), json.loads(watching.line())

    assert first["error"]["code"] == "api_key_revoked"
    assert (second["stream"], second["outcome"]) == ("truncated", "failed")
    assert [one["status"] for one in second["attempts"]] == [200]


PAGE = {"status": 200, "body": "<html>", "headers": {"content-type": "text/html"}}
HALF = {"status": 200, "body": "{", "headers": {"content-type": "application/json"}}
REVOKED = {"code": "api_key_revoked", "type": "authentication_error", "message": "x"}


def given_up(server):
    async def main():
        async with httpx.AsyncClient(trust_env=False) as client:
            await asyncio.wait_for(client.get(server.url + "/models"), 0.1)

    server.answers(delay_s=30)
    with suppress(asyncio.TimeoutError):
        asyncio.run(main())


def left(server):
    server.answers(chunk_delay_s=0.05)
    url, asked = server.url + "/chat/completions", {"stream": True}
    with httpx.stream("POST", url, json=asked, trust_env=False) as response:
        next(response.iter_raw())


def test_an_attempt_that_the_app_has_given_up_is_not_shown_as_ok(app):
    with Watching("--port", "0") as watching:
        app(watching.url, given_up)
        time.sleep(0.5)
        _, out, _ = watching.end()

    assert "└── cancelled  GET /v1/models\n" in out
    assert "ok" not in out
    assert out.endswith("1 call, 0 failed, 0 retries\n")


@pytest.mark.parametrize("step", [given_up, left])
def test_what_the_app_has_given_up_is_cancelled_in_json(app, step):
    with Watching("--port", "0", "--json") as watching:
        app(watching.url, step)
        told = json.loads(watching.line())

    assert (told["outcome"], told["error"], told["advice"]) == ("cancelled", None, None)


@pytest.mark.parametrize(
    ("answer", "head", "facts", "to_do"),
    [
        (
            {"status": 200, "json": {"error": REVOKED}},
            "failed api_key_revoked  chat assisters-chat-v1",
            "type authentication_error, retryable no",
            "Create a new key",
        ),
        (PAGE, "failed _OTHER  chat assisters-chat-v1", "retryable no", "base URL"),
        (HALF, "failed JSONDecodeError  chat assisters-chat-v1", "1 retry", "compare its version"),
        (
            {"fault": "truncate"},
            "failed RemoteProtocolError  chat assisters-chat-v1",
            "retryable yes",
            "outgoing network",
        ),
    ],
    ids=["an envelope", "a page", "half a document", "a broken body"],
)
def test_a_call_that_failed_though_its_last_attempt_did_not_names_its_error(
    app, answer, head, facts, to_do
):
    def step(server):
        server.answers("model_overloaded", retry_after=0)
        server.answers(**answer)
        with suppress(openai.OpenAIError, ValueError):
            chat(server, max_retries=1)

    with Watching("--port", "0") as watching:
        app(watching.url, step)
        time.sleep(0.5)
        _, out, _ = watching.end()

    call, attempts = out.split("    ├── 503 model_overloaded")
    assert f"└── {head}\n" in call
    assert f"    {facts}" in call
    assert to_do in call
    assert "to do: Send again" in attempts
    assert "    └── 200 ok" in attempts


def test_a_redirect_s_hop_is_no_retry_in_json(app):
    def step(server):
        server.answers(status=307, redirect=server.url + "/models")
        with openai.OpenAI(base_url=server.url, api_key="ask_test") as client:
            client.models.list()

    with Watching("--port", "0", "--json") as watching:
        app(watching.url, step)
        told = json.loads(watching.line())
        _, _, err = watching.end()

    assert [one["resend"] for one in told["attempts"]] == [0, 1]
    assert told["retries"] == 0
    assert "1 call, 0 failed, 0 retries" in err


def test_a_trace_of_another_app_is_shown_plainly():
    with Watching("--port", "0") as watching:
        provider = TracerProvider(resource=Resource({"service.name": "other"}))
        exporter = OTLPSpanExporter(endpoint=f"{watching.url}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("other")
        with tracer.start_as_current_span("GET /cart"):
            for _ in range(2):
                tracer.start_span("SELECT").end()
        with tracer.start_as_current_span("job") as span:
            span.set_status(Status(StatusCode.ERROR))
        provider.shutdown()
        first, second = watching.line(), watching.line()
        _, out, _ = watching.end()

    assert re.fullmatch(r"\S+  other  GET /cart  0\.\d\d s, 3 spans\n", first)
    assert second.endswith("job  0.00 s, 1 span  error\n")
    assert out.endswith("0 calls, 0 failed, 0 retries, 2 other traces\n")


def test_on_a_terminal_a_running_count_stands_below(app):
    ours, theirs = pty.openpty()
    told = []

    def read():
        with suppress(OSError):
            while chunk := os.read(ours, 65536):
                told.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Watching("--port", str(port), stdout=theirs) as watching:
        os.close(theirs)
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 20
        while b"until Ctrl-C" not in b"".join(told) and time.monotonic() < until:
            time.sleep(0.05)
        app(url, refused)
        while b"1 failed" not in b"".join(told) and time.monotonic() < until:
            time.sleep(0.05)
        watching.end()
    reader.join()
    os.close(ours)

    text = b"".join(told).decode()
    assert "\r\x1b[K1 call, 1 failed (insufficient_funds 1), 0 retries" in text
    assert "\x1b[1;31m" in text  # in colour


def test_the_picture_is_drawn_of_the_first_calls(app, tmp_path):
    picture = tmp_path / "watch.svg"
    with Watching("--port", "0", "--picture", str(picture)) as watching:
        app(watching.url, lambda server: [recovered(server), *[refused(server)] * 5])
        time.sleep(0.5)
        code, _, err = watching.end()

    assert (code, err) == (0, "")
    drawn = picture.read_text("utf-8")
    assert drawn.startswith("<svg")
    assert "rate_limit_exceeded" in drawn
    assert "http://" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_watched(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "assisters_otel", "watch", "--port", "0", "--picture", tmp_path],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "--picture cannot be written" in " ".join(done.stderr.split())


# -- what is received -----------------------------------------------------------------------------


def request(*spans, service="shop"):
    """An OTLP request with spans given as dictionaries."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    attribute = resource.resource.attributes.add()
    attribute.key, attribute.value.string_value = "service.name", service
    scope = resource.scope_spans.add()
    for one in spans:
        span = scope.spans.add()
        span.trace_id = bytes.fromhex(one.get("trace", "ab" * 16))
        span.span_id = bytes.fromhex(one["id"])
        span.parent_span_id = bytes.fromhex(one.get("parent", ""))
        span.name = one.get("name", "POST /v1/moderate")
        span.start_time_unix_nano = one.get("start", 10**18)
        span.end_time_unix_nano = one.get("end", 10**18 + 10**6)
        for linked in one.get("links", ()):
            span.links.add().span_id = bytes.fromhex(linked)
        for name, value in one.get("attributes", {}).items():
            pair = span.attributes.add()
            pair.key = name
            kind = {str: "string_value", bool: "bool_value", int: "int_value"}[type(value)]
            setattr(pair.value, kind, value)
    return message


OK_ATTEMPT = {"http.request.method": "POST", "assisters.request.id": "req_1"}
REFUSED_ATTEMPT = {**OK_ATTEMPT, "error.code": "invalid_model", "error.type": "x"}
REFUSED_ATTEMPT["assisters.error.retryable"] = False


def as_json(message):
    """As OTLP has it: ids in hex, where protobuf's own has base64."""

    def hexed(value):
        if isinstance(value, list):
            return [hexed(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {
            name: base64.b64decode(one).hex() if name in otlp._IDS else hexed(one)
            for name, one in value.items()
        }

    return json.dumps(hexed(json_format.MessageToDict(message))).encode()


@pytest.fixture(scope="module")
def watching():
    with Watching("--port", "0", "--json") as watching:
        yield watching


def post(watching, path, body, headers):
    return httpx.post(watching.url + path, content=body, headers=headers, trust_env=False)


@pytest.mark.parametrize("is_gzip", [False, True])
@pytest.mark.parametrize("is_json", [False, True])
def test_both_forms_are_read_with_gzip_and_without(watching, is_json, is_gzip):
    message = request({"id": "01" * 8, "attributes": REFUSED_ATTEMPT})
    body = as_json(message) if is_json else message.SerializeToString()
    headers = dict(JSON if is_json else PROTOBUF)
    if is_gzip:
        body, headers["content-encoding"] = gzip.compress(body), "gzip"

    response = post(watching, "/v1/traces", body, headers)

    assert response.status_code == 200
    assert response.headers["content-type"] == headers["content-type"]
    if is_json:
        assert response.json() == {}
    else:
        assert ExportTraceServiceResponse.FromString(response.content) is not None
    told = json.loads(watching.line())
    assert (told["trace_id"], told["span_id"]) == ("ab" * 16, "01" * 8)
    assert told["error"]["code"] == "invalid_model"


def test_metrics_and_log_records_are_taken(watching):
    assert post(watching, "/v1/metrics", b"{}", JSON).status_code == 200
    logs = ExportLogsServiceRequest().SerializeToString()
    assert post(watching, "/v1/logs", logs, PROTOBUF).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff\xff\xff", PROTOBUF, 400),
        (b"<html>", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"null", JSON, 400),
        (b'{"resourceSpans": 7}', JSON, 400),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xy"}]}]}]}', JSON, 400),
        (b"x", {**JSON, "content-encoding": "gzip"}, 400),
        (b"x", {**JSON, "content-encoding": "zstd"}, 400),
        (b"x", {"content-type": "text/plain"}, 415),
        (gzip.compress(bytes(otlp.MAX_BODY + 1)), {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (zlib.compress(b"x"), {**PROTOBUF, "content-encoding": "gzip"}, 400),
    ],
)
def test_what_is_no_otlp_is_refused_and_nothing_ends(watching, body, headers, status):
    assert post(watching, "/v1/traces", body, headers).status_code == status
    assert watching.process.poll() is None


def test_other_paths_are_not_there(watching):
    assert post(watching, "/v1/profiles", b"", PROTOBUF).status_code == 404
    assert httpx.get(watching.url, trust_env=False).status_code == 200


def test_what_would_drive_a_terminal_and_what_is_secret_is_not_shown():
    name = "GET \x1b[2J\x07 ask_live_0123456789abcdef\r\n"
    with Watching("--port", "0") as watching:
        message = request({"id": "01" * 8, "name": name}, service="\x1b]0;x\x07shop")
        assert post(watching, "/v1/traces", message.SerializeToString(), PROTOBUF).is_success
        time.sleep(1.5)
        _, out, _ = watching.end()

    assert "GET" in out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "ask_live" not in out


def test_an_exporter_that_is_too_fast_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr(receiver, "MAX_SPANS", 3)
    body = request({"id": "01" * 8}).SerializeToString()
    with receiver.Receiver(0) as received:

        def send():
            url = f"{received.url}/v1/traces"
            return httpx.post(url, content=body, headers=PROTOBUF, trust_env=False)

        statuses = [send().status_code for _ in range(3)]
        refused = send()
        assert len(received.take(1)) == 1
        again = send()

    assert statuses == [200] * 3
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert again.status_code == 200
    assert received.waiting == 3
    assert [len(received.take(0)) for _ in range(4)] == [1, 1, 1, 0]


def test_tokens_are_counted_where_the_spans_have_them():
    counted = counts.Counts()
    usage = {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 5}
    given = call_span()
    given["attributes"].update(usage)
    (call,) = spans(given)

    for _ in range(2):
        counted.add(calls.Shown(call=call))

    assert str(counted) == "2 calls, 0 failed, 0 retries, 18 + 10 tokens"


def test_ten_thousand_calls_in_a_minute_are_all_counted_in_bounded_memory():
    calls_a_batch, batches = 100, 100
    began_s = time.monotonic()
    with Watching("--port", "0") as watching, httpx.Client(trust_env=False) as client:
        for batch in range(batches):
            spans = []
            for number in range(calls_a_batch):
                trace = f"{batch * calls_a_batch + number + 1:032x}"
                is_bad = number % 20 == 0
                outcome = "failed" if is_bad else "ok"
                attempt = REFUSED_ATTEMPT if is_bad else OK_ATTEMPT
                call = {"assisters.call.outcome": outcome, "assisters.retry.count": 0}
                if is_bad:
                    call["error.code"] = "invalid_model"
                spans += [
                    {"id": "02" * 8, "parent": "01" * 8, "trace": trace, "attributes": attempt},
                    {"id": "01" * 8, "trace": trace, "attributes": call, "name": "chat m"},
                ]
            body = request(*spans).SerializeToString()
            while True:
                response = client.post(watching.url + "/v1/traces", content=body, headers=PROTOBUF)
                if response.status_code != 503:
                    break
                time.sleep(float(response.headers["retry-after"]))
            assert response.is_success
        status = Path(f"/proc/{watching.process.pid}/status").read_text()
        _, out, _ = watching.end()

    *trees, told = out.splitlines()
    assert told.startswith("10000 calls, 500 failed (invalid_model 500), 0 retries")
    assert sum("no answer invalid_model" in line for line in trees) == 500
    assert time.monotonic() - began_s < 60
    assert int(re.search(r"VmHWM:\s+(\d+)", status)[1]) < 200_000  # KiB


# -- a port that is taken -------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_a_busy_port_is_told_with_what_holds_it(call):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = call("watch", "--port", str(port))

    name = Path("/proc/self/comm").read_text().strip()
    assert ended.code == 2
    assert f"port {port} is taken by {name}, process {os.getpid()}" in " ".join(ended.err.split())
    assert f"--port {port + 1}" in ended.err


def test_who_holds_a_free_port_is_nobody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert port_holder(free.getsockname()[1]) is None


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_without_a_web_server_it_says_what_to_install(module):
    code = (
        f"import sys; sys.modules[{module!r}] = None; from assisters_otel.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "watch"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "pip install 'assisters-otel[testing]'" in done.stderr


# -- when a call is complete ----------------------------------------------------------------------


def spans(*given, **options):
    return otlp.traces(request(*given, **options).SerializeToString(), is_json=False)


def call_span(resends=0, **more):
    told = {"assisters.call.outcome": "ok", "assisters.retry.count": resends}
    return {"id": "01" * 8, "attributes": told, **more}


def attempt_span(number, **more):
    return {"id": f"{number:016x}", "parent": "01" * 8, "attributes": OK_ATTEMPT, **more}


def test_a_call_waits_for_the_attempts_that_it_says_it_had():
    store = calls.Calls()
    store.add(spans(call_span(1), attempt_span(5, start=1)), 0)
    assert store.take(0.1) == []
    store.add(spans(attempt_span(6, start=2)), 0.2)

    (shown,) = store.take(0.3)

    assert [one.span_id for one in shown.attempts] == [f"{5:016x}", f"{6:016x}"]
    assert store.waiting == 0


def test_a_call_whose_attempts_never_come_is_shown_without():
    store = calls.Calls()
    store.add(spans(call_span()), 0)

    assert store.take(calls.GRACE_S / 2) == []
    (shown,) = store.take(calls.GRACE_S)
    assert (shown.call.span_id, shown.attempts) == ("01" * 8, ())
    store.add(spans(attempt_span(5)), 2)  # which come late after all, and are not shown again
    assert store.take(10) == []
    assert store.waiting == 0


def test_an_attempt_waits_for_a_call_that_goes_on():
    store = calls.Calls()
    store.add(spans(attempt_span(5)), 0)
    assert store.take(calls.HOLD_S - 0.1) == []
    store.add(spans(call_span()), calls.HOLD_S - 0.1)

    (shown,) = store.take(calls.HOLD_S)

    assert shown.call is not None
    assert len(shown.attempts) == 1


def test_an_attempt_below_a_span_of_the_app_s_does_not_wait():
    store = calls.Calls()
    store.add(spans(attempt_span(5), {"id": "01" * 8, "parent": "09" * 8, "name": "work"}), 0)

    (shown,) = store.take(0)

    assert (shown.call, len(shown.attempts)) == (None, 1)


def test_an_attempt_that_is_a_root_does_not_wait():
    store = calls.Calls()
    store.add(spans(attempt_span(5, parent="")), 0)
    store.add(spans(attempt_span(6, parent="")), 0)

    assert len(store.take(0)) == 2


def test_a_trace_with_calls_has_its_root_as_a_title_and_is_no_other_app_s():
    store = calls.Calls()
    root = {"id": "03" * 8, "name": "POST /orders"}
    store.add(spans(attempt_span(5), call_span(parent="03" * 8), root), 0)

    (shown,) = store.take(0)

    assert shown.title == "POST /orders"
    assert store.take(100) == []


def test_what_waits_is_bounded_and_the_oldest_is_shown_as_it_is():
    store = calls.Calls()
    for number in range(calls.MAX_WAITING + 10):
        store.add(spans(attempt_span(number, trace=f"{number + 1:032x}")), 0)

    assert store.waiting == calls.MAX_WAITING
    assert len(store.take(0)) == 10
    assert len(store.take(0, all_of_them=True)) == calls.MAX_WAITING


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"error.code": "insufficient_funds"}, "Top up the wallet"),
        ({"error.type": "authentication_error"}, "refused"),
        ({"error.type": "502", "http.response.status_code": 502}, "status page"),
        ({"error.type": "404", "http.status_code": 404}, "Compare base URL"),
        ({"error.type": "ReadTimeout", "assisters.error.retryable": True}, "name resolution"),
        (
            {"error.type": "UnsupportedProtocol", "assisters.error.retryable": False},
            "did not leave",
        ),
        ({"error.type": "truncated", "assisters.stream.outcome": "truncated"}, "status page"),
    ],
)
def test_every_failure_has_an_advice(attributes, says):
    (span,) = spans({"id": "01" * 8, "attributes": attributes})

    assert says in advice(calls.Shown(attempts=(span,)))


def test_a_success_has_no_advice():
    (span,) = spans({"id": "01" * 8, "attributes": {"http.response.status_code": 200}})

    assert advice(calls.Shown(attempts=(span,))) is None


def test_an_exception_s_text_is_searched_to_a_limit_and_not_kept():
    message = request({"id": "01" * 8, "attributes": OK_ATTEMPT})
    event = message.resource_spans[0].scope_spans[0].spans[0].events.add()
    event.name = "exception"
    for name, text in (
        ("exception.type", "httpx.ConnectError"),
        ("exception.message", "x" * 1_000_000 + "certificate verify failed"),
    ):
        pair = event.attributes.add()
        pair.key, pair.value.string_value = name, text

    (span,) = otlp.traces(message.SerializeToString(), is_json=False)

    assert span.cause is None
    assert len(str(span)) < 1000
