"""Two keys are used in one process: one has nothing left, the other, which came last, a lot.

The headroom gauge must still show that there is a key with nothing left.
"""

import os
import threading


def wrong(what):
    print("WRONG:", what, flush=True)
    os._exit(1)


limit = threading.Timer(15, wrong, ["still running after 15 s"])
limit.daemon = True
limit.start()
import assisters_otel
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, points = InMemorySpanExporter(), InMemoryMetricReader()
traces, meters = TracerProvider(), MeterProvider([points])
traces.add_span_processor(SimpleSpanProcessor(spans))
memory = {"tracer_provider": traces, "meter_provider": meters}
import json

import httpx
from assisters_otel.testing import FakeApi

with FakeApi() as api:
    assisters_otel.init(hosts=[api.url], **memory)
    for key, left in (("ask_first_key", 0), ("ask_second_key", 5000)):
        api.answers("ok", headers={"X-RateLimit-Remaining-RPM": left})
        httpx.get(f"{api.url}/models", headers={"Authorization": f"Bearer {key}"})
    data = json.loads(points.get_metrics_data().to_json())
shown = [
    point["value"]
    for metric in data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    if metric["name"] == "assisters.client.ratelimit.requests.remaining"
    for point in metric["data"]["data_points"]
]
if 0 not in shown:
    wrong(f"the gauge shows {shown}, and a key with nothing left is hidden")
