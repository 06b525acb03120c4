"""A wrong variable: the app goes on, the rest of the telemetry arrives, one line says so.

Over every variable that the installed packages of OpenTelemetry define.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from importlib.metadata import distributions
from pathlib import Path

import pytest

import assisters_otel
import forked
import scripts
from assisters_otel.variables import corrections, rules
from otlp import Collector, _Server
from sizes import sized

ERROR = json.dumps(
    {"error": {"message": "m", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
).encode()

NUMBER, NAME, SWITCH, LIST, PATTERN = "a number", "a name", "true or false", "a list", "a pattern"
METHODS = "methods"
REFUSED = {
    NUMBER: "1.5x", NAME: "nosuch", SWITCH: "nosuch", LIST: "nosuch", PATTERN: "(",
    METHODS: "GET POST",
}  # fmt: skip
LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
)  # fmt: skip
KINDS = {
    **dict.fromkeys(LIMITS, NUMBER),
    "OTEL_BSP_EXPORT_TIMEOUT": NUMBER,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": NUMBER,
    "OTEL_BSP_MAX_QUEUE_SIZE": NUMBER,
    "OTEL_BSP_SCHEDULE_DELAY": NUMBER,
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": LIST,
    "OTEL_EXPORTER_OTLP_COMPRESSION": NAME,
    "OTEL_EXPORTER_OTLP_INSECURE": SWITCH,
    "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": NAME,
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": NAME,
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": PATTERN,
    "OTEL_EXPORTER_OTLP_METRICS_INSECURE": SWITCH,
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": NAME,
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": NAME,
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": NUMBER,
    "OTEL_EXPORTER_OTLP_PROTOCOL": NAME,
    "OTEL_EXPORTER_OTLP_TIMEOUT": NUMBER,
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": NAME,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": PATTERN,
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE": SWITCH,
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": NAME,
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": NUMBER,
    "OTEL_EXPORTER_PROMETHEUS_PORT": NUMBER,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": METHODS,
    "OTEL_METRICS_EXEMPLAR_FILTER": NAME,
    "OTEL_METRICS_EXPORTER": NAME,
    "OTEL_METRIC_EXPORT_INTERVAL": NUMBER,
    "OTEL_METRIC_EXPORT_TIMEOUT": NUMBER,
    "OTEL_PROPAGATORS": LIST,
    "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS": PATTERN,
    "OTEL_PYTHON_CONTEXT": NAME,
    "OTEL_PYTHON_EXCLUDED_URLS": PATTERN,
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER": NAME,
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_METRICS_CREDENTIAL_PROVIDER": NAME,
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": LIST,
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_TRACES_CREDENTIAL_PROVIDER": NAME,
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": NAME,
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER": NAME,
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": NAME,
    "OTEL_PYTHON_HTTPX_EXCLUDED_URLS": PATTERN,
    "OTEL_PYTHON_ID_GENERATOR": NAME,
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": NAME,
    "OTEL_PYTHON_METER_CONFIGURATOR": NAME,
    "OTEL_PYTHON_METER_PROVIDER": NAME,
    "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": PATTERN,
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": SWITCH,
    "OTEL_PYTHON_TRACER_CONFIGURATOR": NAME,
    "OTEL_PYTHON_TRACER_PROVIDER": NAME,
    "OTEL_RESOURCE_ATTRIBUTES": LIST,
    "OTEL_SDK_DISABLED": SWITCH,
    "OTEL_TRACES_EXPORTER": NAME,
    "OTEL_TRACES_SAMPLER": NAME,
    "OTEL_TRACES_SAMPLER_ARG": NUMBER,
}
"""What of a variable that `init` has read by somebody is right. A wrong one gets its line."""

VALUES = (
    "(", "nosuch", "-1", "1.5x", "", " ", "true ", "9" * 30, "nan", "é\N{SNOWMAN}", "\udcff",
    "tracecontext,nosuch,(", "a=b,=,%ff=%ff", "0",
)  # fmt: skip

BESIDE = {
    "OTEL_TRACES_SAMPLER_ARG": {"OTEL_TRACES_SAMPLER": "traceidratio"},
    "OTEL_EXPORTER_OTLP_ENDPOINT": {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{}/v1/traces",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{}/v1/metrics",
    },
}
"""What else is set, so that a variable counts or another signal goes on."""

GRPC = {
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "10",
}
"""Nobody is there: that it is sent to is what can be seen of it."""

COSTS = {
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": {"metrics"},
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": {"spans"},
    "OTEL_METRICS_EXPORTER": {"metrics"},
    "OTEL_TRACES_EXPORTER": {"spans"},
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": {"spans", "metrics"},
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE": {"spans"},
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE": {"metrics"},
}
"""Where to, if not there? What a wrong one of these costs."""

LEFT_OUT = {
    ("OTEL_PYTHON_EXCLUDED_URLS", "0"): "is in every URL, and that is right",
    ("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "0"): "is in every URL, and that is right",
    ("OTEL_SDK_DISABLED", "true "): "switches off, and that is right",
    ("OTEL_TRACES_SAMPLER_ARG", "0"): "keeps no trace, and that is right",
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "0"): "right, and nothing to recognise a span by",
}


def defined():
    """Every variable that a module of an installed package of OpenTelemetry's names."""
    found = set()
    for distribution in distributions():
        if distribution.metadata["Name"].startswith("opentelemetry-"):
            for file in distribution.files or ():
                if file.suffix == ".py" and "semconv" not in file.parts:
                    text = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8")
                    found |= set(re.findall(r"""["'](OTEL_[A-Z0-9_]*[A-Z0-9])["']""", text))
    found.add("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS")  # the HTTP conventions define it
    for client in ("HTTPX", "REQUESTS", "AIOHTTP_CLIENT"):  # put together from parts
        found |= {f"OTEL_PYTHON_{client}_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS"}
    return sorted(found)


class Refusing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(429)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ERROR)))
        self.end_headers()
        self.wfile.write(ERROR)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def url():
    server = _Server(("127.0.0.1", 0), Refusing)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture
def arrived(collector):
    """Which services' spans and errors have arrived during this test."""
    collector.requests.clear()  # nobody sends between two tests

    def names():
        points = collector.all_points("assisters.client.errors")
        spans = {span.resource["service.name"] for span in collector.spans()}
        return spans, {point.resource["service.name"] for point in points}

    return names


@pytest.fixture(scope="module")
def play(url):
    """Plays rows in forks of a process: ``warm`` or ``cold``."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    started = {}

    def played(kind, asked):
        if kind not in started:
            started[kind] = subprocess.Popen(
                [sys.executable, forked.__file__, kind, url],
                env=clean,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = started[kind]
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return [forked.Row(*row) for row in json.loads(process.stdout.readline())]

    yield played
    for process in started.values():
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def read_at_import():
    """The variables that are read while we are imported: there a fork comes too late."""
    script = """
        import os
        read = set()
        class Reads(type(os.environ)):
            def __getitem__(self, name):
                read.add(name)
                return super().__getitem__(name)
        os.environ.__class__ = Reads
        import importlib, forked
        for name in forked.READING:
            importlib.import_module(name)
        print(*(name for name in read if name.startswith("OTEL_")))
    """
    found = set(scripts.passed(script, is_first=True, PYTHONPATH=PATH).out.split())
    assert {"OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT"} <= found  # else a fork would be too late
    return found


EXPECTED = "API answered|get through to http://127.0.0.1:9 "
PATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
DEFINED = defined()


def values(variable):
    """All of them; fewer at a small size, others for each variable, and always a wrong one.

    What `init` has nobody read gets few: it can break something by an import alone.
    """
    is_read = variable in KINDS
    first = REFUSED[KINDS[variable]] if is_read else "nosuch"
    others = [value for value in VALUES if value != first and (variable, value) not in LEFT_OUT]
    turn = DEFINED.index(variable) % len(others)
    return [first, *(others[turn:] + others[:turn])[: sized(len(others) if is_read else 2) - 1]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process for each would take minutes")
@pytest.mark.parametrize("variable", DEFINED)
def test_a_wrong_variable_costs_no_more_than_what_it_names(
    variable, play, read_at_import, collector, arrived, url
):
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    base |= {k: v.format(collector.endpoint) for k, v in BESIDE.get(variable, {}).items()}
    is_grpc = "GRPC" in variable or variable.endswith("TRACES_INSECURE")
    if is_grpc:
        base |= GRPC
    asked = [[base | {variable: value}, f"{variable} {value!r}", url] for value in values(variable)]
    rows = play("cold" if variable in read_at_import else "warm", asked)

    spans, points = arrived()
    for (_, name, _), row in zip(asked, rows, strict=True):
        assert row.raised is None, (name, row)
        assert row.left is None, (name, row)
        costs = COSTS.get(variable, ())
        assert name in spans or is_grpc or "spans" in costs, (name, row)
        assert name in points or "metrics" in costs, (name, row)
    if variable in KINDS:
        lines = [line for line in rows[0].lines if not re.search(EXPECTED, line[1])]
        told = [text for logger, text in lines if logger == "assisters_otel" and variable in text]
        assert len(told) == len(lines) == 1, rows[0].lines
        assert "Write " in told[0] or "Unset " in told[0], told


def test_every_rule_is_of_a_variable_that_somebody_defines():
    assert set(rules.RULES) <= set(DEFINED)


@pytest.mark.parametrize(
    ("set_to", "told"),
    [
        (
            {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1.5x"},
            "'1.5x' cannot be used, OTEL_EXPORTER_OTLP_TIMEOUT, or 10, is",
        ),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate"}, "gRPC has no 'deflate', so nothing"),
        ({"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "nosuch"}, "'nosuch' cannot be used, OTEL_"),
    ],
    ids=str,
)
def test_what_the_grpc_exporter_refuses_does_not_cost_it(play, collector, url, set_to, told):
    asked = [
        [{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint} | GRPC | set_to, "grpc", url],
    ]
    (row,) = play("warm", asked)

    assert row.raised is None
    texts = [text for _, text in row.lines if "API answered" not in text]
    assert any("get through to http://127.0.0.1:9 " in text for text in texts), texts
    texts = [text for text in texts if "get through to" not in text]
    assert len(texts) == (told is not None)
    assert all(told in text for text in texts)


@pytest.mark.parametrize(
    ("set_to", "read", "told"),
    [
        ({"OTEL_PROPAGATORS": "nosuch, tracecontext"}, "tracecontext", "'tracecontext' is taken"),
        ({"OTEL_PROPAGATORS": "tracecontext, "}, "tracecontext", None),
        ({"OTEL_PROPAGATORS": "nosuch"}, None, "tracecontext,baggage is taken instead. Write some"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, None, "2048 is taken instead. Write a whole number"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, None, "http/protobuf is taken instead"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": " GRPC"}, "grpc", None),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "inf"}, "inf", None),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1e30"}, None, "60000 is taken instead"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "1e9"}, None, "10 is taken instead"),
        ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "9" * 20}, None, "128 is taken instead"),
        ({"OTEL_SPAN_EVENT_COUNT_LIMIT": ""}, "", None),
        ({"OTEL_PYTHON_EXCLUDED_URLS": "a,(,b"}, "a,b", "'a,b' is taken instead"),
        ({"OTEL_PYTHON_EXCLUDED_URLS": "(?P<a>x),(?P<a>y)"}, "(?P<a>x)", "'(?P<a>x)' is taken"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b,c,d=\udcff,e=f"}, "a=b,e=f", "'a=b,e=f' is taken"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "x=%E2%98%83,y=secret"}, "y=secret", "what can be is"),
        ({"OTEL_TRACES_SAMPLER_ARG": "half"}, "half", None),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_right_of_a_variable_is_kept(set_to, read, told):
    ((name, text),) = set_to.items()
    found = {one.name: one for one in corrections.corrections(set_to)}
    one = found.get(name, corrections.Correction(name, text, None, ()))

    assert one.replacement == read
    assert (one.text is None) is (told is None)
    if told:
        assert one.text.startswith(name)
        assert told in one.text
        assert "secret" not in one.text


@pytest.mark.parametrize(
    ("set_to", "batch", "told"),
    [
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, "100", "OTEL_BSP_MAX_QUEUE_SIZE=100 cannot"),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"}, "2048", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4096"),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "no"},
            "8",
            "OTEL_BSP_MAX_QUEUE_SIZE=8 cannot",
        ),
    ],
)
def test_a_batch_is_no_larger_than_the_queue(set_to, batch, told):
    (one,) = corrections.corrections(set_to)

    assert (one.name, one.replacement) == ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch)
    assert one.text.startswith(told)
    assert "Write " in one.text


def test_other_threads_read_what_is_set(monkeypatch):
    monkeypatch.setenv("OTEL_PROPAGATORS", "nosuch")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    kind, there, elsewhere = type(os.environ), dict(os.environ), []

    def read():
        elsewhere.append(dict(os.environ))
        elsewhere.append(json.loads(subprocess.check_output([sys.executable, "-c", ENVIRONMENT])))

    with corrections.corrected():
        assert "OTEL_PROPAGATORS" not in os.environ
        assert os.environ.get("OTEL_PROPAGATORS") is None
        assert dict(os.environ) == os.environ.copy()
        assert len(os.environ) == len(there) - 1
        assert os.environ["OTEL_TRACES_EXPORTER"] == "otlp"
        with corrections.corrected():
            assert "OTEL_PROPAGATORS" not in os.environ
        assert "OTEL_PROPAGATORS" not in os.environ
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()

    assert elsewhere[0] == dict(os.environ) == there
    assert elsewhere[1]["OTEL_PROPAGATORS"] == "nosuch"
    assert type(os.environ) is kind


ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "beside"])
def test_a_process_that_is_forked_meanwhile_reads_as_its_thread_did(is_inside):
    script = f"""
        import os, threading
        from assisters_otel.variables import corrections
        os.environ["OTEL_PROPAGATORS"] = "nosuch"
        kind = type(os.environ)
        def forked():
            pid = os.fork()
            if pid == 0:
                fine = ("OTEL_PROPAGATORS" in os.environ) is not {is_inside}
                fine = fine and (type(os.environ) is kind) is not {is_inside}
                os._exit(not fine)
            assert os.waitpid(pid, 0)[1] == 0
        with corrections.corrected():
            if {is_inside}:
                forked()
            else:
                threads = [threading.Thread(target=forked)]
                threads[0].start()
                threads[0].join()
        assert type(os.environ) is kind
    """
    scripts.passed(script)


# -- in one process ---------------------------------------------------------------------------


def started(script="", **env):
    """Switch on beside a collector; give its lines and what has arrived."""
    with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint} | env
        done = scripts.passed(START.replace("SCRIPT", script), PYTHONPATH=PATH, **env)
        spans = [span.name for span in collector.spans()]
        return done, spans, collector.metric_names()


START = """
import assisters_otel, test_variables
with assisters_otel.init("x") as telemetry:
    SCRIPT
    from opentelemetry import metrics, trace
    trace.get_tracer("app").start_span("span").end()
    metrics.get_meter("app").create_counter("count").add(1)
    print(*telemetry.status().destinations)
"""


def test_one_unknown_exporter_among_several_costs_itself():
    done, spans, metrics = started(OTEL_TRACES_EXPORTER="nosuch,otlp")

    assert (spans, metrics) == (["span"], {"count"})
    assert done.err.count("\n") == 1
    assert "OTEL_TRACES_EXPORTER: nothing is called 'nosuch'" in done.err
    assert " otlp, " in done.err
    assert "Only the others of OTEL_TRACES_EXPORTER are used" in done.err


def test_two_signals_that_are_lost_are_one_line_that_names_both():
    done, *_ = started(OTEL_TRACES_EXPORTER="nosuch", OTEL_METRICS_EXPORTER="nosuch")

    assert done.err.count("\n") == 1
    assert "OTEL_TRACES_EXPORTER: nothing" in done.err
    assert "OTEL_METRICS_EXPORTER: nothing" in done.err


def off(_scope):
    """A configurator of tracers, or of meters, that has none on."""
    from opentelemetry.sdk.metrics._internal import _MeterConfig
    from opentelemetry.sdk.trace import _TracerConfig

    return _TracerConfig(is_enabled=False) if _scope.name == "app" else _MeterConfig.default()


@pytest.mark.parametrize("what", ["tracer", "meter"])
def test_a_configurator_is_heeded_as_the_sdk_heeds_it(what, tmp_path):
    folder = tmp_path / "acme-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    group = f"_opentelemetry_{what}_configurator"
    (folder / "entry_points.txt").write_text(f"[{group}]\nacme = test_variables:off\n")
    with Collector() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            f"OTEL_PYTHON_{what.upper()}_CONFIGURATOR": "acme",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{PATH}",
        }
        done = scripts.passed(START.replace("SCRIPT", "pass"), **env)

        assert done.err == ""
        assert ([span.name for span in collector.spans()] == []) is (what == "tracer")
        assert (collector.metric_names() == set()) is (what == "meter")


def test_a_key_in_the_wrong_variable_is_not_shown():
    key = "ask_live_0123456789abcdef0123456789abcdef"
    done, spans, _ = started(
        OTEL_TRACES_SAMPLER=key, OTEL_BSP_MAX_QUEUE_SIZE=key, OTEL_METRICS_EXPORTER=f"otlp,{key}"
    )

    assert spans == ["span"]
    assert done.err.count("\n") == 3
    assert "0123456789" not in done.err


def test_a_wrong_variable_of_opentelemetry_s_is_raised_if_strict(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "nosuch")

    with pytest.raises(ValueError, match=r"OTEL_BSP_MAX_QUEUE_SIZE='nosuch' cannot be used"):
        assisters_otel.init(strict=True)


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        ({"endpoint": "localhost"}, "'http://localhost:4318'"),
        ({"endpoint": "collector/otlp"}, "'http://collector:4318/otlp'"),
        ({"endpoint": "localhost", "protocol": "grpc"}, "'http://localhost:4317'"),
        ({"headers": {"bad name": "x"}}, "'authorization'"),
    ],
)
def test_a_wrong_argument_is_an_error_also_with_providers_of_the_app_s(memory, arguments, instead):
    own = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}

    with pytest.raises(ValueError, match="Write") as raised:
        assisters_otel.init(**arguments, **own)

    assert instead in str(raised.value)
