"""Why do I see nothing? Each trouble by itself, as the command meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from assisters_otel.cli import checks, process
from otlp import Collector

COMMAND = Path(sys.executable).with_name("assisters-otel")


def run(*arguments, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ASSISTERS_"))}
    return subprocess.run(
        [COMMAND, "doctor", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def findings(**environment):
    done = run("--json", **environment)
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1), done.stderr
    wrong = [one for one in document["findings"] if not one["fine"]]
    assert all(one["to_do"] for one in wrong)
    return document["findings"], {one["check"]: one for one in wrong}


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture
def grpc_port():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


def test_one_span_and_one_metric_are_sent_and_accepted(collector):
    found, _ = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert [one["fine"] for one in found if one["check"] == "arrival"] == [True, True]
    assert [span.name for span in collector.spans()] == ["doctor"]
    assert [point.value for point in collector.points("doctor")] == [1]


def test_a_person_is_told_what_to_do():
    done = run(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")

    told = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "nobody answers at http://127.0.0.1:9" in told
    assert "Start the collector" in told
    assert "to do" in done.stdout.splitlines()[-1]
    assert "\x1b" not in done.stdout


def test_nothing_wrong_is_exit_code_0(collector, monkeypatch, capsys):
    # What this project's own tests have installed side by side.
    monkeypatch.setattr(checks, "_collisions", lambda: iter(()))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setattr(sys, "argv", ["assisters-otel", "doctor"])
    from assisters_otel import cli

    with pytest.raises(SystemExit) as exit_:
        cli.main()

    assert exit_.value.code == 0
    assert "Nothing to do." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environment", "check", "says"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "SDK", "OTEL_SDK_DISABLED is true"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "traces", "OTEL_TRACES_EXPORTER is none"),
        ({"OTEL_METRICS_EXPORTER": "none"}, "metrics", "OTEL_METRICS_EXPORTER is none"),
        ({"OTEL_TRACES_EXPORTER": "zipkinn"}, "traces", "zipkinn"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "sampler", "keeps no trace"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "sampler", "keeps no trace"),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "sampler",
            "keeps no trace",
        ),
        ({"OTEL_TRACES_SAMPLER": "nonsense"}, "sampler", "nonsense"),
        ({"OTEL_SEMCONV_STABILITY_OPT_IN": "database"}, "conventions", "says nothing of HTTP"),
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
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "arrival", "traces: "),
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
def test_what_keeps_telemetry_away_is_found(collector, environment, check, says):
    _, wrong = findings(**{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **environment})

    assert says in wrong[check]["what"]


@pytest.mark.parametrize(
    "environment",
    [
        {"ASSISTERS_BASE_URL": "https://gateway.example/v1"},
        {"OPENAI_BASE_URL": "https://api.assisters.dev/v1"},
        {"OPENAI_BASE_URL": "http://a.b:8080/v1", "ASSISTERS_OTEL_HOSTS": "a.b:8080"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
        {"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"},
    ],
)
def test_what_is_in_order_is_not_complained_of(collector, environment):
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **environment)

    assert wrong.keys() <= {"entry points"}


def test_http_to_a_grpc_port_is_found(grpc_port):
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{grpc_port}")

    assert "speaks gRPC, and is sent OTLP over HTTP" in wrong["traces"]["what"]
    assert "4318" in wrong["metrics"]["to_do"]


def test_grpc_to_an_http_port_is_found(collector):
    _, wrong = findings(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )

    assert "speaks HTTP, and is sent OTLP over gRPC" in wrong["traces"]["what"]
    assert "4317" in wrong["metrics"]["to_do"]


def test_a_server_that_is_no_receiver_is_found(assisters_api):
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=assisters_api.url)

    assert "not accepted" in wrong["arrival"]["what"]


def test_two_packages_under_one_name_are_found(collector):
    """As this project's own tests have them."""
    _, wrong = findings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert "register 'openai'" in wrong["entry points"]["what"]


def test_a_client_without_its_instrumentation_is_found(monkeypatch):
    versions = {"aiohttp": "3.0", "requests": "2.0", "opentelemetry-instrumentation-httpx": "1"}
    monkeypatch.setattr(checks, "_installed", versions.get)
    monkeypatch.setattr(checks, "_is_wanted_by_others", lambda client: client == "requests")

    clients = list(checks._clients())

    (found,) = [one for one in clients if not one.fine]
    assert found.check == "aiohttp"
    assert found.to_do == "pip install 'assisters-otel[aiohttp]'"
    (other,) = [one for one in clients if one.check == "requests"]
    assert "for other packages; pip install 'assisters-otel[requests]' if" in other.what


def test_our_own_exporter_s_client_is_there_for_others():
    assert checks._is_wanted_by_others("requests")
    assert not checks._is_wanted_by_others("a-client-of-nobody")


def test_a_version_outside_its_range_is_found(monkeypatch):
    monkeypatch.setattr(checks, "requires", lambda _: ["wrapt>=1,<2", "nonsense==", "not-there>1"])
    monkeypatch.setattr(checks, "_installed", {"wrapt": "2.5"}.get)

    (found,) = checks._versions()

    assert found.what == "wrapt 2.5 is installed, <2,>=1 is wanted"
    assert found.to_do.startswith("pip install --upgrade wrapt")


def under_opentelemetry_instrument(collector, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ASSISTERS_"))}
    done = subprocess.run(
        [COMMAND.with_name("opentelemetry-instrument"), COMMAND, "doctor", "--json"],
        env=clean | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return {one["check"]: one for one in json.loads(done.stdout)["findings"]}


def test_under_opentelemetry_instrument_it_looks_at_the_app_s_own_process(collector):
    found = under_opentelemetry_instrument(collector, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")

    assert found["zero-code"]["what"] == "opentelemetry-instrument has set the providers"
    assert found["patches"]["fine"]


def test_opentelemetry_instrument_that_sets_no_providers_is_found(collector):
    """As it does without a distribution, and then nothing is ever sent."""
    found = under_opentelemetry_instrument(collector, OTEL_PYTHON_CONFIGURATOR="none")

    assert found["zero-code"]["what"].endswith("has set no tracer provider and no meter provider")
    assert found["zero-code"]["to_do"] == "pip install 'assisters-otel[auto]'"


def test_our_name_among_the_disabled_ones_is_found(collector):
    _, wrong = findings(
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis, assisters",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert "leaves us out" in wrong["zero-code"]["what"]


def test_a_client_that_is_patched_twice_is_found():
    import httpx
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    class Another(HTTPXClientInstrumentor):
        _instance = None
        _is_instrumented_by_opentelemetry = False

    def wrong():
        return [one.what for one in process.findings({}) if not one.fine]

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

    (found,) = [one for one in process.findings({}) if not one.fine]

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
    monkeypatch.setattr(checks, "requires", lambda _: wanted)

    assert checks._through("openai") == through
