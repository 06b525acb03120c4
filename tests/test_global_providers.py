"""The global providers: the app's own, of whatever kind, and ours, which an app cannot replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from otlp import Collector
from scripts import passed

SCRIPT = """
import logging, sys
sys.path.insert(0, BESIDE)
import httpx
import assisters_otel
from opentelemetry import metrics, trace
from api_only import Recorded

how = "%(levelname)s %(name)s %(message)s"
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=how)
logging.getLogger("httpx").setLevel(logging.WARNING)
recorded = Recorded()
def app():
    trace.set_tracer_provider(recorded.tracer_provider)
    metrics.set_meter_provider(recorded.meter_provider)
def init():
    return assisters_otel.init("shop", hosts=[URL], endpoint=COLLECTOR, strict=True)
def call():
    httpx.post(URL + "/chat/completions", json={"model": "m"}, trust_env=False)
"""


def said(api, collector, body):
    """Play a script; give what was said in it, line by line."""
    beside = str(Path(__file__).parent)
    settings = f"URL = {api.url!r}\nCOLLECTOR = {collector.endpoint!r}\nBESIDE = {beside!r}\n"
    return passed(settings + SCRIPT + body).out.splitlines()


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


def test_the_global_providers_need_no_more_than_the_api(api, collector):
    api.answers("invalid_model", times=2)

    lines = said(
        api,
        collector,
        """
app()
with init() as telemetry:
    call()
    assert telemetry.flush(5)
(span,) = recorded.spans()
assert span.attributes["error.code"] == "invalid_model"
with init():  # again: they are not ours, and not over
    call()
assert len(recorded.spans()) == 2
""",
    )

    assert not collector.spans()
    assert "INFO assisters_otel recording in the application's Tracers and Meters" in str(lines)
    assert "can be set once" not in str(lines)


def test_a_provider_with_the_name_of_a_stand_in_is_none(api, collector):
    """As logfire's has it."""
    said(
        api,
        collector,
        """
import api_only
class ProxyTracerProvider(api_only.Tracers):
    __slots__ = ()
trace.TracerProvider.register(ProxyTracerProvider)
recorded.tracer_provider = ProxyTracerProvider(recorded)
app()
with init():
    call()
assert len(recorded.spans()) == 1
""",
    )

    assert not collector.spans()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("", "tracer and meter provider"),
        ("tracer_provider=recorded.tracer_provider", "meter provider"),
        ("meter_provider=recorded.meter_provider", "tracer provider"),
    ],
)
def test_what_init_has_made_global_is_said_once_with_what_to_do(api, collector, given, named):
    lines = said(
        api,
        collector,
        f"""
for _ in range(2):
    handle = assisters_otel.init("shop", hosts=[URL], endpoint=COLLECTOR, {given})
app()
call()
handle.shutdown()
""",
    )

    (line,) = [line for line in lines if "can be set once" in line]
    assert line.startswith(f"INFO assisters_otel init has set the global {named}, which")
    arguments = " and ".join(f"{what}_provider=" for what in named.split() if what[0] in "tm")
    assert line.endswith(f"Set it before init, or give init {arguments}")
    # What OpenTelemetry says of it, word for word.
    refused = [one.partition("Overriding")[2] for one in lines if one.startswith("WARNING")]
    assert all(refused), lines
    assert len(refused) == len(named.split(" and "))
    assert all(f"Overriding{words}" in line for words in refused)


def test_the_app_s_providers_that_are_given_work_whatever_is_global(api, collector):
    said(
        api,
        collector,
        """
first = init()
first.shutdown()
with assisters_otel.init(
    hosts=[URL],
    tracer_provider=recorded.tracer_provider,
    meter_provider=recorded.meter_provider,
    strict=True,
):
    call()
assert len(recorded.spans()) == 1
""",
    )
