"""An app that has OpenTelemetry already: its providers are used. See the lines below.

python examples/existing_providers.py
"""

import os

import httpx
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import assisters_otel

tracers = TracerProvider()
tracers.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(tracers)
reader = PeriodicExportingMetricReader(ConsoleMetricExporter())
metrics.set_meter_provider(MeterProvider([reader]))

assisters_otel.init()  # adds no exporter of its own, and shuts nothing of yours down

url = os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1")
httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {os.environ['ASSISTERS_API_KEY']}"})
