"""What an app in one file must do: python check_bundle.py PATH.

It runs inside the environment in which `bundle.py` has built the file, against servers on this
machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from check import DURATION, grpc_collector

from assisters_otel.testing import FakeApi
from otlp import Collector

FILE = """
file_format: '1.0'
resource: {{attributes: [{{name: service.name, value: of-file}}]}}
propagator: {{composite: [{{tracecontext: }}]}}
tracer_provider:
  processors: [{{batch: {{exporter: {{otlp_http: {{endpoint: {0}/v1/traces}}}}}}}}]
meter_provider:
  readers: [{{periodic: {{exporter: {{otlp_http: {{endpoint: {0}/v1/metrics}}}}}}}}]
"""


def play(app: str, **variables: str) -> dict[str, Any]:
    """Run the app against an API that refuses; give what it printed."""
    with FakeApi() as api:
        api.answers("invalid_model", times=2)
        done = subprocess.run(
            [app, api.url],
            env={**os.environ, "OTEL_SERVICE_NAME": "bundled", **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = [one for one in done.stderr.splitlines() if not one.startswith("Assisters API answered")]
    assert told == [], done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def arrived(collector: Collector, service: str) -> None:
    """The spans of both clients and the metrics came from that service."""
    spans = [one for one in collector.spans() if "http.request.method" in one.attributes]
    assert [one.attributes["error.code"] for one in spans] == ["invalid_model"] * 2, spans
    points = collector.points(DURATION)
    assert points
    assert {one.resource["service.name"] for one in (*spans, *points)} == {service}


def by_variables(app: str) -> None:
    """What names stand for is there: exporters, a sampler, propagators, detectors."""
    with Collector() as collector:
        printed = play(
            app,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_TRACES_SAMPLER="parentbased_traceidratio",
            OTEL_TRACES_SAMPLER_ARG="1",
            OTEL_PROPAGATORS="tracecontext,baggage",
            OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="otel,process",
        )
        arrived(collector, "bundled")
    assert printed["said"] == "invalid_model"
    assert printed["version"] == version("assisters-otel")
    assert "assisters" in printed["instrumentors"]
    assert {"httpx", "requests"} <= printed["clients"].keys()
    assert "unknown" not in printed["clients"].values(), printed
    assert printed["last failure"] is None


def by_grpc(app: str) -> None:
    """The exporters of the extra `grpc` are there."""
    with grpc_collector() as (endpoint, bodies):
        play(app, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert any(b"invalid_model" in one and b"POST /v1" in one for one in bodies)
    assert any(DURATION.encode() in one for one in bodies)


def by_file(app: str) -> None:
    """The package of the extra `config` is there, with its schema."""
    with Collector() as collector, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "otel.yaml"
        path.write_text(FILE.format(collector.endpoint))
        play(app, OTEL_CONFIG_FILE=str(path))
        arrived(collector, "of-file")


if __name__ == "__main__":
    for check in (by_variables, by_grpc, by_file):
        check(sys.argv[1])
