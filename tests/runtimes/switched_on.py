"""Switches on what a test of the runtimes asks for, in the environment variable ``MODE``.

``ours``: `init` builds the providers. ``the app's``: the app has built its own. ``zero-code``:
nothing is to do here, since ``opentelemetry-instrument`` has done it.
"""

from __future__ import annotations

import os
import ssl

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the API speaks plain HTTP: no certificate is read
MODE = os.environ["MODE"]
handle = None

if MODE == "the app's":
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))

if MODE != "zero-code":
    import assisters_otel

    handle = assisters_otel.init("site", hosts=[os.environ["API"]])
