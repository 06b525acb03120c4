"""Why do I see nothing? Each trouble by itself, as the command meets it."""

from __future__ import annotations

import json
import re
import socket
import sys
from concurrent import futures

import grpc
import pytest

import scripts
from assisters_otel.cli.doctor import command as doctor
from assisters_otel.cli.doctor import packages, process
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.semconv import environment
from assisters_otel.variables import corrections, rules
from assisters_otel.variables.rules import SAMPLER
from otlp import Collector


def read(done):
    document = json.loads(done.out)
    assert done.code == (0 if document["ok"] else 1), done.err
    wrong = [one for one in document["findings"] if not one["fine"]]
    assert all(one["to_do"] for one in wrong)
    return document["findings"], {one["check"]: one for one in wrong}


@pytest.fixture
def findings(call):
    """What is found in this process, with these variables: all, and what is wrong by its check."""
    return lambda **variables: read(call("doctor", "--json", **variables))


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture
def grpc_server():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    yield server
    server.stop(None).wait()


@pytest.fixture
def grpc_port(grpc_server):
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    return port


def test_one_span_and_one_metric_are_sent_and_accepted(run, collector):
    found, _ = read(run("doctor", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint))

    assert [one["fine"] for one in found if one["check"] == "arrival"] == [True, True]
    assert [span.name for span in collector.spans()] == ["doctor"]
    assert [point.value for point in collector.points("doctor")] == [1]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_without_an_endpoint_nothing_is_sent_to_whoever_listens_at_the_default_one(
    monkeypatch, findings, protocol
):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = listener.getsockname()
        connect = socket.create_connection

        def to_the_listener(address, **options):
            asked.append(address)
            return connect(there, **options)

        monkeypatch.setattr(socket, "create_connection", to_the_listener)
        found, wrong = findings(OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        received = []
        for _ in asked:
            connection, _ = listener.accept()
            with connection:
                received.append(connection.recv(1000))

    port = 4318 if protocol == "http/protobuf" else 4317
    assert asked == [("localhost", port)] * 2
    assert received == [b"", b""]
    (told,) = [one for one in found if one["check"] == "arrival"]
    assert told["what"].startswith("no test of the spans and metrics was sent")
    assert "doctor --endpoint http" in told["what"]
    assert wrong.keys() <= {"entry points"}


def test_the_clients_that_nobody_sees_are_named(monkeypatch):
    monkeypatch.setattr(packages, "_installed", {"pycurl": "7.4", "niquests": "3.1"}.get)

    found = packages._not_seen()

    assert found.fine
    assert "http.client, urllib or urllib3 without requests" in found.what
    assert "niquests 3.1, pycurl 7.4, which are installed" in found.what


def test_where_none_of_them_is_installed_none_is_named(monkeypatch):
    monkeypatch.setattr(packages, "_installed", lambda _: None)

    assert "installed" not in packages._not_seen().what


@pytest.mark.parametrize("version", ["1.40.0", "2.9.0", "3.0.0", "4.0"])
def test_a_client_of_the_app_s_is_no_version_to_upgrade(monkeypatch, version):
    """The demo wants openai 3; the app's own may be any that is watched."""
    versions = {"openai": version, "httpx": "0.20", "typer": "0.1", "opentelemetry-sdk": "1.45"}
    monkeypatch.setattr(
        packages,
        "requires",
        lambda _: [
            "openai<4,>=3; extra == 'demo'", "httpx>=0.27; extra == 'demo'",
            "typer>=0.29; extra == 'cli'", "opentelemetry-sdk>=1.44",
            "opentelemetry-distro>=0.65b0; extra == 'auto'",
        ],
    )  # fmt: skip
    monkeypatch.setattr(packages, "_installed", versions.get)
    assert [one.fine for one in packages._versions()] == [True]

    versions["opentelemetry-distro"] = "0.1"
    (found,) = packages._versions()
    assert found.what.startswith("opentelemetry-distro 0.1 is installed")


def test_a_person_is_told_what_to_do(run):
    done = run("doctor", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")

    told = " ".join(done.out.split())
    assert done.code == 1
    assert "nothing answers at http://127.0.0.1:9" in told
    assert "Start the collector" in told
    assert "to do" in done.out.splitlines()[-1]
    assert "\x1b" not in done.out


def test_what_an_ascii_terminal_cannot_show_is_a_question_mark(call_in_ascii):
    done = call_in_ascii("doctor", OPENAI_BASE_URL="https://gateway.example/v1")

    assert done.out.isascii()
    assert "init(hosts=[?])" in "".join(done.out.split())


def test_nothing_wrong_is_exit_code_0(call, collector, monkeypatch):
    # What this project's own tests have installed side by side.
    monkeypatch.setattr(packages, "_collisions", lambda: iter(()))

    done = call("doctor", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert done.code == 0
    assert "Nothing to do." in done.out


@pytest.mark.parametrize(
    ("environment", "check", "says"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "SDK", "OTEL_SDK_DISABLED is true"),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
            "exporters",
            "neither spans nor metrics leave the process",
        ),
        ({"OTEL_TRACES_EXPORTER": "zipkinn"}, "traces", "zipkinn"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "sampler", "keeps no trace"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "sampler", "keeps no trace"),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "sampler",
            "keeps no trace",
        ),
        ({"OTEL_TRACES_SAMPLER": "nonsense"}, "sampler", "nonsense"),
        (
            {"OPENAI_BASE_URL": "https://gateway.example:8443/v1"},
            "OPENAI_BASE_URL",
            "gateway.example is not watched",
        ),
        ({"OPENAI_BASE_URL": "gateway"}, "OPENAI_BASE_URL", "is no URL"),
        ({"ASSISTERS_OTEL_HOSTS": "https://"}, "hosts", "ASSISTERS_OTEL_HOSTS"),
        ({"ASSISTERS_BASE_URL": "http://h:99999/v1"}, "ASSISTERS_BASE_URL", "is no URL"),
        ({"OPENAI_BASE_URL": "http://[::1/v1"}, "OPENAI_BASE_URL", "is no URL"),
        ({"ASSISTERS_OTEL_CAPTURE_MESSAGE": "maybe"}, "messages", "neither true nor false"),
        ({"ASSISTERS_OTEL_KEY_FINGERPRINT": "maybe"}, "key", "No fingerprint is recorded"),
        ({"ASSISTERS_OTEL_BAGGAGE": "tenant,le"}, "baggage", "used are 'tenant'"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OTEL_BSP_MAX_QUEUE_SIZE", "2048 is taken instead"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:99999",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "traces",
            "Port out of range",
        ),
    ],
)
def test_what_keeps_telemetry_away_is_found(findings, collector, environment, check, says):
    _, wrong = findings(**{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **environment})

    assert says in wrong[check]["what"]


def wrong_value(variable):
    """A value of the variable that its rule refuses, by itself or beside a sampler."""
    for text in ("nosuch", "-1", "(", "\udcff"):
        environ = {SAMPLER: "traceidratio", variable: text}
        if any(one.text for one in corrections.corrections(environ, [variable])):
            return text
    raise AssertionError(variable)


WRONG = {variable: wrong_value(variable) for variable in rules.RULES}
LOADED = {
    "OTEL_PYTHON_ID_GENERATOR": "nosuch",
    "OTEL_PYTHON_METER_CONFIGURATOR": "nosuch",
    "OTEL_PYTHON_TRACER_CONFIGURATOR": "nosuch",
}
"""What no rule is of, since only the package that brings it knows the name."""


@pytest.mark.parametrize("variable", [*WRONG, *LOADED])
def test_a_variable_that_cannot_be_used_is_a_finding_that_names_it(findings, collector, variable):
    environ = {
        SAMPLER: "traceidratio",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        variable: {**WRONG, **LOADED}[variable],
    }

    found, wrong = findings(**environ)

    assert variable in wrong[variable]["what"]
    assert wrong.keys() <= {variable, "entry points"}, "it is told of once"
    arrival = [one["fine"] for one in found if one["check"] == "arrival"]
    assert arrival == [True, True], "as with init, it costs no more than what it configures"


INIT = """
import logging, os
logging.basicConfig(format="%(message)s")
import assisters_otel
assisters_otel.init("x")
os._exit(0)  # nobody is there to send to
"""


@pytest.mark.parametrize(
    "environ",
    [
        WRONG,
        LOADED,
        {SAMPLER: "nosuch"},
        {SAMPLER: "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nosuch"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20"},
        {"OTEL_TRACES_EXPORTER": "nosuch", "OTEL_METRICS_EXPORTER": "nosuch"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nosuch"},
        {"OTEL_CONFIG_FILE": "nosuch.yaml", "OTEL_METRIC_EXPORT_TIMEOUT": "nosuch"},
        {
            "ASSISTERS_OTEL_HOSTS": "https://",
            "ASSISTERS_OTEL_CAPTURE_MESSAGE": "maybe",
            "ASSISTERS_OTEL_KEY_FINGERPRINT": "maybe",
            "ASSISTERS_OTEL_BAGGAGE": "le",
        },
    ],
    ids=lambda environ: ",".join(environ) if len(environ) < 5 else "all that have a rule",
)
def test_whatever_init_warns_of_is_among_the_findings(run, environ):
    warned = scripts.passed(INIT, **environ).err
    _, wrong = read(run("doctor", "--json", **environ))

    named = set(re.findall(r"(?:OTEL|ASSISTERS)_[A-Z_]+[A-Z]", warned)) & environ.keys()
    assert named
    told = " ".join(one["what"] for one in wrong.values())
    assert {name for name in named if name not in told} == set()


@pytest.mark.parametrize(
    "environment",
    [
        {"ASSISTERS_BASE_URL": "https://gateway.example/v1"},
        {"OPENAI_BASE_URL": "https://api.assisters.dev/v1"},
        {"OPENAI_BASE_URL": "http://a.b:8080/v1", "ASSISTERS_OTEL_HOSTS": "a.b:8080"},
        {
            "OPENAI_BASE_URL": "https://xn--bcher-kva.example/v1",
            "ASSISTERS_OTEL_HOSTS": "Bücher.example.",
        },
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
        {"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"},
        {"ASSISTERS_OTEL_KEY_FINGERPRINT": "false", "ASSISTERS_OTEL_BAGGAGE": "tenant, team"},
    ],
)
def test_what_is_in_order_is_not_complained_of(findings, collector, environment):
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **environment)

    assert wrong.keys() <= {"entry points"}


def test_http_to_a_grpc_port_is_found(findings, grpc_port):
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{grpc_port}")

    assert "speaks gRPC, and is sent OTLP over HTTP" in wrong["traces"]["what"]
    assert "4318" in wrong["metrics"]["to_do"]


def test_grpc_to_an_http_port_is_found(findings, collector):
    _, wrong = findings(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )

    assert "speaks HTTP, and is sent OTLP over gRPC" in wrong["traces"]["what"]
    assert "4317" in wrong["metrics"]["to_do"]


def test_a_server_that_is_no_receiver_is_found(findings, assisters_api):
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=assisters_api.url)

    assert "not accepted: HTTP 404" in wrong["arrival"]["what"]


@pytest.mark.parametrize(
    ("status", "reason", "advice"),
    [
        (401, "HTTP 401", "Set OTEL_EXPORTER_OTLP_HEADERS"),
        (403, "HTTP 403", "Set OTEL_EXPORTER_OTLP_HEADERS"),
        (404, "HTTP 404", "no OTLP receiver's base URL"),
        (400, "HTTP 400", "Look at the collector's log: is it there, and is it an OTLP receiver?"),
    ],
)
def test_doctor_says_why_telemetry_was_refused(findings, collector, status, reason, advice):
    collector.status = status

    found, _ = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    spans, metrics = (one for one in found if one["check"] == "arrival")
    assert spans["what"] == f"the spans were not accepted: {reason}"
    assert metrics["what"] == f"the metrics were not accepted: {reason}"
    assert advice in spans["to_do"]
    assert advice in metrics["to_do"]


# A name that nobody can look up: only the proxy may be asked for it.
BEHIND_PROXY = "http://collector.invalid:4318"


def test_a_receiver_behind_a_proxy_is_tried_through_it(findings, collector):
    proxy = collector.endpoint.replace("://", "://user:planted@")

    found, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=BEHIND_PROXY, HTTP_PROXY=proxy)

    traces = next(one for one in found if one["check"] == "traces")
    assert traces["what"].endswith(f"/v1/traces, through the proxy {collector.endpoint}")
    assert wrong.keys() <= {"entry points"}
    assert {request.path for request in collector.requests} == {
        f"{BEHIND_PROXY}/v1/traces",
        f"{BEHIND_PROXY}/v1/metrics",
    }


@pytest.mark.parametrize("status", [403, 404, 502])
def test_a_proxy_that_may_be_what_refuses_is_named(findings, collector, status):
    collector.status = status

    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=BEHIND_PROXY, HTTP_PROXY=collector.endpoint)

    assert f"It may be the proxy {collector.endpoint} that refuses" in wrong["arrival"]["to_do"]
    assert "NO_PROXY=collector.invalid" in wrong["arrival"]["to_do"]


@pytest.mark.parametrize(
    ("variables", "what", "to_do"),
    [
        (
            {"HTTP_PROXY": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_ENDPOINT": BEHIND_PROXY},
            f"nothing answers at the proxy http://127.0.0.1:9, on the way to {BEHIND_PROXY}",
            "NO_PROXY=collector.invalid",
        ),
        (
            {"http_proxy": "http://proxy.invalid:3128"},
            "http://localhost:4318 is on this machine, and is asked for at the proxy",
            "NO_PROXY=localhost",
        ),
        (
            {"ALL_PROXY": "http://proxy.invalid", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:1"},
            "is asked for at the proxy http://proxy.invalid:80",
            "NO_PROXY=::1",
        ),
        (
            {"HTTP_PROXY": "http://proxy.invalid:0x1", "OTEL_EXPORTER_OTLP_ENDPOINT": BEHIND_PROXY},
            "HTTP_PROXY or HTTPS_PROXY has a wrong port",
            "Correct the variable",
        ),
    ],
)
def test_a_proxy_that_is_in_the_way_is_found(findings, variables, what, to_do):
    _, wrong = findings(**variables)

    assert what in wrong["traces"]["what"]
    assert to_do in wrong["metrics"]["to_do"]


def test_a_receiver_without_a_proxy_or_over_grpc_is_asked_directly(findings, grpc_port, collector):
    variables = {"HTTP_PROXY": "http://proxy.invalid:3128", "NO_PROXY": "127.0.0.1"}
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "NO_PROXY": ""}

    for endpoint, more in ((collector.endpoint, {}), (f"http://127.0.0.1:{grpc_port}", grpc)):
        _, wrong = findings(**{**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **more})
        assert "traces" not in wrong


def test_https_to_a_receiver_without_tls_is_found(findings, collector):
    endpoint = collector.endpoint.replace("http:", "https:")

    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)

    assert "speaks no TLS: write http://" in wrong["arrival"]["to_do"]


def test_one_signal_s_refusal_is_not_the_other_s(findings, collector):
    collector.status = {"/v1/metrics": 401}

    found, _ = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert [one["fine"] for one in found if one["check"] == "arrival"] == [True, False]


def test_the_url_of_one_signal_is_asked_for_its_own_path(findings, collector):
    """No path is appended to it, so the base URL, which many write there, is a 404."""
    collector.status = {"/": 404}

    _, wrong = findings(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/",
        OTEL_METRICS_EXPORTER="none",
    )

    assert "does the path end in /v1/traces?" in wrong["arrival"]["to_do"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "Set OTEL_EXPORTER_OTLP_HEADERS"),
        (grpc.StatusCode.UNIMPLEMENTED, "the collector's OTLP/gRPC port (4317)?"),
    ],
)
def test_a_refusal_over_grpc_has_its_reason_too(findings, grpc_server, code, advice):
    def refuse(_, context):
        context.abort(code, "no")

    class Refusing(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(refuse)

    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.add_generic_rpc_handlers((Refusing(),))
    grpc_server.start()

    _, wrong = findings(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )

    assert wrong["arrival"]["what"] == f"the metrics were not accepted: {code.name}"
    assert advice in wrong["arrival"]["to_do"]


@pytest.mark.parametrize(
    ("off", "on", "what"),
    [("traces", "metrics", "spans"), ("metrics", "traces", "metrics")],
)
def test_one_signal_that_is_switched_off_is_a_note_and_the_other_is_tried(
    findings, collector, off, on, what
):
    variable = f"OTEL_{off.upper()}_EXPORTER"

    found, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **{variable: "none"})

    (note,) = [one for one in found if one["check"] == off]
    assert note["what"] == f"none: no {what} leave the process, as {variable} says"
    assert [one["fine"] for one in found if one["check"] == "arrival"] == [True]
    assert {request.path for request in collector.requests} == {f"/v1/{on}"}
    assert wrong.keys() <= {"entry points"}


def test_a_signal_with_a_wrong_variable_does_not_keep_the_other_from_being_tried(
    findings, collector
):
    found, wrong = findings(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_EXPORTER="zipkinn"
    )

    assert "zipkinn" in wrong["traces"]["what"]
    assert [one["what"] for one in found if one["check"] == "arrival"] == [
        "a test of the metrics was accepted, service assisters-otel-doctor"
    ]


def test_the_console_does_not_print_into_the_document(run):
    # In a process: the SDK's console exporters hold the stdout of the moment of their import.
    variables = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"}
    found, _ = read(run("doctor", "--json", **variables))

    texts = {one["check"]: one["what"] for one in found}
    assert texts["traces"] == "exported by console; not tried: it would print here"
    assert "arrival" not in texts


def test_a_signal_is_named_once_in_its_line(findings, collector):
    found, _ = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    texts = {one["check"]: one["what"] for one in found}
    for signal in ("traces", "metrics"):
        url = f"{collector.endpoint}/v1/{signal}"
        assert texts[signal] == f"exported by otlp_proto_http {url}"


@pytest.mark.parametrize("variable", ["ASSISTERS_BASE_URL", "OPENAI_BASE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "user:secret@gateway.example/v1",
        "https://user:secret@gateway.example/v1",
        "https://user:12/secret@gateway.example/v1",
        "https://user:se/cret@gateway.example/v1",
        "https://user:secret@gateway.example:99999/v1",
    ],
)
def test_what_stands_before_an_at_sign_is_never_printed(call, variable, url):
    done = call("doctor", "--json", **{variable: url})

    assert "gateway.example" in done.out
    said = done.out + done.err
    assert not [word for word in ("user:", "secret", "cret@") if word in said]


def test_the_interpreter_is_the_first_thing_that_is_said(run):
    found, _ = read(run("doctor", "--json"))

    version = ".".join(map(str, sys.version_info[:3]))
    assert found[0]["check"] == "python"
    assert found[0]["what"] == f"{sys.executable} {version}"


EXPORTER = "opentelemetry-exporter-otlp-proto-http"


@pytest.mark.parametrize(
    ("installer", "is_marked", "is_certain"),
    [("pip", False, True), ("pip", True, False), ("uv", True, False), ("other", False, False)],
)
def test_an_environment_without_a_client_of_the_app_s_is_found(
    monkeypatch, tmp_path, installer, is_marked, is_certain
):
    """As pipx makes one: there is requests alone, which our exporter wants."""
    place = tmp_path / "requests-2.0.dist-info"
    place.mkdir()
    place.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: requests\nVersion: 2.0\n")
    place.joinpath("INSTALLER").write_text(f"{installer}\n")
    if is_marked:
        place.joinpath("REQUESTED").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "_installed", {"requests": "2.0"}.get)
    monkeypatch.setattr(packages, "_requirers", lambda _: {EXPORTER})

    client, found = packages._clients({})

    assert (client.check, client.fine) == ("requests", True)
    assert "no client of the API is installed here but requests, which the OTLP" in found.what
    assert found.fine is not is_certain
    assert "your app's interpreter" in (found.to_do if is_certain else found.what)


def test_an_environment_without_any_client_is_found(monkeypatch):
    monkeypatch.setattr(packages, "_installed", {}.get)

    (found,) = packages._clients({})

    assert found.what == "no client of the API is installed here"
    assert "your app's interpreter" in found.to_do


@pytest.mark.parametrize(
    ("versions", "requirers"),
    [
        ({"httpx": "0.28"}, set()),
        ({"aiohttp": "3.0"}, {"an-app"}),
        ({"assisters": "0.1", "requests": "2.0"}, {EXPORTER}),
        ({"requests": "2.0"}, {EXPORTER, "an-app"}),
    ],
)
def test_an_environment_with_a_client_is_not_said_to_have_none(monkeypatch, versions, requirers):
    monkeypatch.setattr(packages, "_installed", versions.get)
    monkeypatch.setattr(packages, "_requirers", lambda _: requirers)

    assert "clients" not in [one.check for one in packages._clients({})]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_word_that_is_to_be_copied_is_cut(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    advice = "pip install 'assisters-otel[auto]'"
    endpoint = "http://collector.observability.svc.cluster.local:4318/v1/traces"
    doctor._show(
        [
            Finding("zero-code", False, "opentelemetry-instrument has set no provider", advice),
            Finding("traces", True, f"exported by otlp_proto_http {endpoint}"),
        ]
    )

    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    assert "'assisters-otel[auto]'" in out
    assert endpoint in "".join(out.split())
    assert out.splitlines()[-1] == "1 thing to do"


def test_two_packages_under_one_name_are_found(findings, collector):
    """As this project's own tests have them."""
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert "register 'openai'" in wrong["entry points"]["what"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ASSISTERS_OTEL_HOST", "Did you mean ASSISTERS_OTEL_HOSTS?"),
        ("ASSISTERS_OTEL_FINGERPRINT", "Did you mean ASSISTERS_OTEL_KEY_FINGERPRINT?"),
        ("ASSISTERS_OTEL_X", "ASSISTERS_OTEL_BAGGAGE"),
    ],
)
def test_a_variable_that_is_misspelt_is_found(findings, name, advice):
    _, wrong = findings(**{name: "gw.example"})

    assert wrong[name]["what"] == "the library reads no such variable"
    assert advice in wrong[name]["to_do"]


def test_no_variable_of_the_library_s_is_said_to_be_misspelt(findings):
    own = {
        name: "true"
        for name in vars(environment).values()
        if isinstance(name, str) and name.startswith("ASSISTERS_")
    }

    found, _ = findings(**own)

    assert len(own) >= 5
    assert not any(one["what"] == "the library reads no such variable" for one in found)


@pytest.fixture
def spans_of(monkeypatch):
    """Say what doctor tells of each HTTP client's spans, with these packages installed."""

    def spans_of(variables, **versions):
        versions = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(packages, "_installed", versions.get)
        monkeypatch.setattr(packages, "_requirers", lambda _: {"an-app"})
        found = list(packages._clients(variables))
        assert all(one.fine for one in found)
        return {one.check: one.what for one in found}

    return spans_of


def test_a_client_needs_no_instrumentation_for_its_spans(spans_of):
    found = spans_of({}, aiohttp="3.0", requests="2.0", opentelemetry_instrumentation_requests="1")

    assert found == {
        "aiohttp": "3.0, spans by assisters_otel",
        "requests": "2.0, spans by assisters_otel, or by opentelemetry-instrumentation-requests 1 "
        "where that is on",
    }


def test_a_client_whose_spans_the_environment_takes_away_is_told_of(spans_of):
    variables = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis, aiohttp-client"}

    found = spans_of(variables, aiohttp="3.0", requests="2.0")

    assert found == {
        "aiohttp": "3.0, with init() no HTTP spans: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS names "
        "aiohttp-client",
        "requests": "2.0, spans by assisters_otel",
    }


@pytest.mark.parametrize(
    ("variable", "value", "url", "clients"),
    [
        (
            "OTEL_PYTHON_EXCLUDED_URLS",
            "health,.*",
            "https://api.assisters.dev/v1",
            "httpx requests",
        ),
        ("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "/api/", "https://assisters.dev/api/v1", "httpx"),
        ("OTEL_PYTHON_REQUESTS_EXCLUDED_URLS", "gw", "https://gw.example/v1", "requests"),
        ("OTEL_PYTHON_EXCLUDED_URLS", "health", None, ""),
    ],
)
def test_a_client_whose_requests_a_variable_leaves_out_is_told_of(
    spans_of, monkeypatch, variable, value, url, clients
):
    monkeypatch.setenv(variable, value)

    environ = {"ASSISTERS_OTEL_HOSTS": "gw.example", variable: value}
    found = spans_of(environ, httpx="0.28", requests="2.0")

    left_out = f"no HTTP spans of {url}: {variable} leaves them out"
    told = {name for name, what in found.items() if left_out in what}
    assert told == set(clients.split())


def test_under_opentelemetry_instrument_that_variable_is_of_other_instrumentations(
    spans_of, monkeypatch
):
    variables = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx"}
    monkeypatch.setattr(process, "is_zero_code", lambda: True)

    found = spans_of(variables, httpx="0.28", opentelemetry_instrumentation_httpx="1")

    assert found == {"httpx": "0.28, spans by assisters_otel"}


@pytest.mark.parametrize(
    ("mode", "theirs"),
    [
        ("", "old names (http.status_code)"),
        ("database", "old names (http.status_code)"),
        ("http", "stable names"),
        ("database,http/dup", "old and stable names"),
    ],
)
def test_the_names_on_whose_http_spans_are_told(findings, collector, mode, theirs):
    found, wrong = findings(
        OTEL_SEMCONV_STABILITY_OPT_IN=mode, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint
    )

    assert "conventions" not in wrong
    (what,) = [one["what"] for one in found if one["check"] == "conventions"]
    assert what.startswith(f"stable names on HTTP spans of this library's; {theirs} on those of")


def test_requests_is_there_for_the_exporter():
    assert EXPORTER in packages._requirers("requests")
    assert packages._requirers("a-client-of-nobody") == set()
    assert not packages._is_for_exporter_alone("httpx")


def test_a_version_outside_its_range_is_found(monkeypatch):
    monkeypatch.setattr(
        packages, "requires", lambda _: ["wrapt>=1,<2", "nonsense==", "not-there>1"]
    )
    monkeypatch.setattr(packages, "_installed", {"wrapt": "2.5"}.get)

    (found,) = packages._versions()

    assert found.what == "wrapt 2.5 is installed, <2,>=1 is wanted"
    assert found.to_do.startswith("pip install --upgrade wrapt")


@pytest.fixture
def under_opentelemetry_instrument(run, collector):
    def found(**variables):
        done = run(
            "doctor",
            "--json",
            under="opentelemetry-instrument",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            # Of which the import takes two seconds.
            **{"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "openai", **variables},
        )
        return {one["check"]: one for one in json.loads(done.out)["findings"]}

    return found


def test_under_opentelemetry_instrument_it_looks_at_the_app_s_own_process(
    under_opentelemetry_instrument,
):
    found = under_opentelemetry_instrument(OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")

    assert found["zero-code"]["what"] == "opentelemetry-instrument has set the providers"
    assert found["patches"]["fine"]


def test_opentelemetry_instrument_that_sets_no_providers_is_found(under_opentelemetry_instrument):
    """As it does without a distribution, and then nothing is ever sent."""
    found = under_opentelemetry_instrument(
        OTEL_PYTHON_CONFIGURATOR="none",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai",  # to import them takes most of the time
    )

    assert found["zero-code"]["what"].endswith("has set no tracer provider and no meter provider")
    assert found["zero-code"]["to_do"] == "pip install 'assisters-otel[auto]'"


def test_our_name_among_the_disabled_ones_is_found(findings, collector):
    _, wrong = findings(
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis, assisters",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert "has assisters: nothing is watched" in wrong["zero-code"]["what"]


def test_a_client_that_is_patched_twice_is_found():
    import httpx
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    class Another(HTTPXClientInstrumentor):
        _instance = None
        _is_instrumented_by_opentelemetry = False

    def wrong():
        return [one.what for one in process.check_process({}) if not one.fine]

    before = vars(httpx.HTTPTransport)["handle_request"]
    first, second = HTTPXClientInstrumentor(), Another()
    first.instrument()
    assert wrong() == []
    second.instrument()
    try:
        assert wrong() == ["httpx is patched 2 times by opentelemetry.instrumentation.httpx"]
    finally:
        second.uninstrument()
        first.uninstrument()
    assert vars(httpx.HTTPTransport)["handle_request"] is before


def test_two_instrumentations_of_one_client_are_found(monkeypatch):
    import requests

    def patched(by, original):
        made = {"__name__": by, "original": original}
        exec("def send(*args, **kwargs): return original(*args, **kwargs)", made)  # noqa: S102 - in a module of another name
        made["send"].__wrapped__ = original
        return made["send"]

    original = requests.Session.send
    monkeypatch.setattr(requests.Session, "send", patched("one.apm", patched("two.apm", original)))

    (found,) = [one for one in process.check_process({}) if not one.fine]

    assert found.what == "requests is patched by one.apm and two.apm"


@pytest.mark.parametrize(
    ("wanted", "through"),
    [
        (["httpx>=0.23,<1", "aiohttp; extra == 'aiohttp'"], "httpx"),
        (["httpx2<3,>=2", "pydantic"], "httpx2"),
        ([], "a client of its own"),
    ],
)
def test_it_says_through_which_client_the_installed_sdk_goes(monkeypatch, wanted, through):
    monkeypatch.setattr(packages, "requires", lambda _: wanted)

    assert packages._through("openai") == through


CONFIGURED = """
file_format: '1.0'
tracer_provider: {processors: [{batch: {exporter: {otlp_http: {endpoint: http://127.0.0.1:9}}}}]}
"""


@pytest.mark.parametrize(
    ("file", "extra", "wrong", "says"),
    [
        (CONFIGURED, True, False, "describes the providers"),
        ("disabled: 3\n", True, True, "cannot be used"),
        (CONFIGURED, False, True, "pip install 'assisters-otel[config]'"),
        (f"{CONFIGURED}disabled: true\n", True, True, "is disabled"),
    ],
    ids=["used", "broken", "without the extra", "disabled"],
)
def test_a_configuration_file_is_named(findings, tmp_path, monkeypatch, file, extra, wrong, says):
    path = tmp_path / "otel.yaml"
    path.write_text(file)
    if not extra:
        monkeypatch.setitem(sys.modules, "opentelemetry.configuration", None)

    found, amiss = findings(OTEL_CONFIG_FILE=str(path), OTEL_TRACES_EXPORTER="nowhere")

    (told,) = [one for one in found if one["check"] == "OTEL_CONFIG_FILE"]
    assert says in told["what"]
    assert ("OTEL_CONFIG_FILE" in amiss) == wrong
    # The variables hold where the file does not.
    is_read = any("nowhere" in one["what"] for one in found)
    assert is_read == (says not in {"describes the providers", "is disabled"})


def test_with_a_configuration_file_an_endpoint_that_is_named_is_tried(run, collector, tmp_path):
    path = tmp_path / "otel.yaml"
    path.write_text(CONFIGURED)

    found, _ = read(
        run(
            "doctor", "--json", "--endpoint", collector.endpoint, OTEL_CONFIG_FILE=str(path)
        )
    )  # fmt: skip

    assert [one["fine"] for one in found if one["check"] == "arrival"] == [True, True]
