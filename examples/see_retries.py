"""Which attempt was sent again, after what, and did it help? python examples/see_retries.py."""

import httpx
import openai
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import assisters_otel
from assisters_otel.testing import FakeApi


def line(span: ReadableSpan) -> str:
    """Write what a span says of retries; in your app it goes to Jaeger in place of the console."""
    names = ("assisters.call.", "assisters.retry", "error.code", "http.request.resend_count")
    told = sorted((span.attributes or {}).items())
    lines = [f"    {name} = {value!r}\n" for name, value in told if name.startswith(names)]
    return "".join([f"{span.name}\n", *lines])


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))

with (
    FakeApi() as api,  # a server on this machine that answers as it is told
    assisters_otel.init(hosts=[api.url], tracer_provider=provider, meter_provider=MeterProvider()),
):
    print("An SDK that retries by itself:\n")
    api.answers("rate_limit_exceeded", retry_after=0.2)
    api.answers("model_overloaded", "ok")
    client = openai.OpenAI(base_url=api.url, api_key="ask_example")
    client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": "Say hello."}]
    )

    print("\nA loop of your own, which does not wait:\n")
    api.answers("rate_limit_exceeded", "ok")
    question = {"model": "assisters-embed-v1", "input": "hello"}
    while httpx.post(f"{api.url}/embeddings", json=question).is_error:
        pass
