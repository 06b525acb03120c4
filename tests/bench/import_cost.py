"""What `import assisters_otel` and `init` add to a start: python tests/bench/import_cost.py.

Beside them stands an app that has httpx and the SDK, and in one row OpenTelemetry's instrumentation
of httpx as well, which imports what we need, too. Pairs of fresh interpreters, one after the other;
medians of the pairs' differences. The collector is off: whether one of its full runs, as dear as we
are, falls to us or to the app's next import is chance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

_PAIRS = 25
GOAL_MS = 15

_CLOCK = "import gc, time; gc.disable(); start = time.process_time()\n"
_IMPORTS = """
import httpx
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
"""
_OTLP = """
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor
"""
_BUILD = """
tracers = TracerProvider(shutdown_on_exit=False)
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
reader = PeriodicExportingMetricReader(OTLPMetricExporter())
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
"""
_GIVEN = """
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
metrics.set_meter_provider(MeterProvider(shutdown_on_exit=False))
"""
_THEIRS = """
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
HTTPXClientInstrumentor().instrument()
"""
_OURS = "import assisters_otel; assisters_otel.init('shop')\n"
# No exit hooks: a collector that is not there would be waited for.
_TELL = "\nprint(time.process_time() - start, flush=True); import os; os._exit(0)"

PAIRS = {
    "the app has providers": (_IMPORTS + _GIVEN, _IMPORTS + _GIVEN + _OURS),
    "and OpenTelemetry's for httpx": (
        _IMPORTS + _GIVEN + _THEIRS,
        _IMPORTS + _GIVEN + _THEIRS + _OURS,
    ),
    "init builds them, OTLP over HTTP": (_IMPORTS + _OTLP + _BUILD, _IMPORTS + _OTLP + _OURS),
}


def _run_s(code: str) -> float:
    # -I: what stands in the environment's paths is nobody's start.
    command = [sys.executable, "-I", "-c", _CLOCK + code + _TELL]
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return float(subprocess.run(command, capture_output=True, check=True, env=env).stdout)


def measure(pairs: int = _PAIRS) -> dict[str, tuple[float, float, float]]:
    """Give for each start what it takes without us, with us, and more, in milliseconds."""
    taken = {}
    for name, codes in PAIRS.items():
        runs = [tuple(map(_run_s, codes)) for _ in range(pairs)]
        without, whole = (1e3 * median(column) for column in zip(*runs, strict=True))
        taken[name] = without, whole, 1e3 * median(b - a for a, b in runs)
    return taken


def main() -> None:
    lines = [f"{'ms of the process, medians':34} {'without':>9} {'with us':>9} {'more':>7}  goal"]
    for name, (without, whole, more) in measure().items():
        lines.append(f"{name:34} {without:9.1f} {whole:9.1f} {more:7.1f}    {GOAL_MS}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
