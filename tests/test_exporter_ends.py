"""How exporters end: in time, with what a collector still takes, and once."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util import _importlib_metadata

from assisters_otel.providers import owned_providers
from assisters_otel.providers.build import build_providers
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def build(endpoint: str | None = None) -> owned_providers.OwnedProviders:
    return build_providers(
        traces=True,
        metrics=True,
        service_name="ends",
        endpoint=endpoint,
        headers=None,
        protocol=None,
    )


def record(exports: owned_providers.OwnedProviders) -> None:
    exports.tracer_provider.get_tracer("app").start_span("span").end()
    exports.meter_provider.get_meter("app").create_counter("count").add(1)


# -- a collector that comes back -----------------------------------------------------------------


def test_the_end_waits_for_a_collector_that_has_just_come_back(monkeypatch):
    # On a busy machine a second may be over before anything has been sent.
    monkeypatch.setattr(owned_providers, "UNREACHABLE_WAIT_S", 30)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    exports = build(f"http://127.0.0.1:{port}")
    record(exports)
    assert exports.flush(0.5) is False, "nobody answers"

    with Collector(port=port) as collector:
        assert exports.shutdown(60) is True

        assert [span.name for span in collector.spans()] == ["span"]
        assert [point.value for point in collector.points("count")] == [1]


# -- a clock that stands still -------------------------------------------------------------------


@pytest.mark.parametrize("end", ["flush", "shutdown"])
def test_an_end_keeps_its_limit_while_a_test_of_the_app_has_stopped_the_clock(monkeypatch, end):
    """As freezegun does, which leaves the clock of `threading` alone."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        exports = build(f"http://127.0.0.1:{hanging.getsockname()[1]}")
        record(exports)
        with monkeypatch.context() as stopped:
            stopped.setattr(time, "monotonic", lambda: 1000.0)
            ending = threading.Thread(target=getattr(exports, end), args=(0.5,), daemon=True)
            ending.start()
            ending.join(20)
            assert not ending.is_alive()


# -- an exporter of the app's --------------------------------------------------------------------


class Closes:
    """An exporter that hangs until it is told to go on, and counts how often it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0
        self.may_go_on = threading.Event()
        made.append(self)

    def shutdown(self, *_: object, **__: object) -> None:
        self.closed += 1

    def force_flush(self, *_: object, **__: object) -> bool:
        return True


class Spans(Closes, SpanExporter):
    def export(self, _spans: object) -> SpanExportResult:
        self.may_go_on.wait()
        return SpanExportResult.SUCCESS


class Metrics(Closes, MetricExporter):
    def export(self, *_: object, **__: object) -> MetricExportResult:
        self.may_go_on.wait()
        return MetricExportResult.SUCCESS


made: list[Closes] = []


@pytest.fixture
def closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Closes]]:
    """Have the variables ask for these two, as for any exporter that a package brings."""
    folder = tmp_path / "acme-1.0.dist-info"
    folder.mkdir()
    folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    folder.joinpath("entry_points.txt").write_text(
        f"[opentelemetry_traces_exporter]\nacme = {__name__}:Spans\n"
        f"[opentelemetry_metrics_exporter]\nacme = {__name__}:Metrics\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fresh = _importlib_metadata._original_entry_points_cached.cache_clear
    importlib.invalidate_caches()
    fresh()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "acme")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "acme")
    made.clear()
    yield made
    for one in made:
        one.may_go_on.set()
    monkeypatch.undo()
    fresh()


def test_an_exporter_is_closed_once_however_often_its_end_comes(closes):
    """What hangs at the end is closed by who gives up, and once more by who had waited for it."""
    others = set(threading.enumerate())
    exports = build()
    record(exports)
    threads = [
        one for one in set(threading.enumerate()) - others if one.name == "assisters-otel-export"
    ]

    for _ in range(2):
        assert exports.shutdown(0.1) is False
        assert [one.closed for one in closes] == [1, 1]

    for one in closes:
        one.may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert [one.closed for one in closes] == [1, 1]
    assert exports.shutdown() is False


def test_an_exporter_is_closed_once_where_the_app_ends_our_providers_itself(closes):
    exports = build()
    for one in closes:
        one.may_go_on.set()
    record(exports)

    exports.tracer_provider.shutdown()
    exports.meter_provider.shutdown()
    exports.shutdown()

    assert [one.closed for one in closes] == [1, 1]


# -- connections ---------------------------------------------------------------------------------

AT_EXIT = """
import os
import assisters_otel, requests

assisters_otel.init(hosts=[os.environ["API"]])
with requests.Session() as session:
    session.get(os.environ["API"] + "/models")
"""


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "by a proxy"])
def test_an_exit_warns_of_no_connection_that_is_not_closed(api, proxied):
    """What urllib3 closes by finalizers is not closed at exit if the app has had some before."""
    with Collector() as collector:
        # A proxy gets the same requests, with the whole URL in the first line.
        told = {"http_proxy": collector.endpoint, "no_proxy": "127.0.0.1"} if proxied else {}
        endpoint = "http://collector.example:4318" if proxied else collector.endpoint
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", AT_EXIT],
            env={**os.environ, **told, "API": api.url, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert len(collector.requests) == 2
