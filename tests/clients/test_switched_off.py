"""Another instrumentation of the SDK that is switched off again takes nothing out but itself.

OpenInference and logfire keep the method that they have wrapped, and put it back. The first two of
these tests run in processes of their own, with the instrumentations themselves; logfire is none of
the packages that the tests install.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager

import openai
import pytest

import assisters_otel
from assisters_otel.clients import patching
from scripts import passed

MODULES = {
    "openllmetry": "opentelemetry.instrumentation.openai",
    "genai": "opentelemetry.instrumentation.genai.openai",
    "openinference": "openinference.instrumentation.openai",
}
OUTCOME = "assisters.call.outcome"
SCRIPT = """
import asyncio, json, sys
sys.path.insert(0, {tests!r})

import openai
from {module} import OpenAIInstrumentor

import assisters_otel
from assisters_otel.testing import FakeApi
from memory import Memory

memory = Memory()


def ask():
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        client.models.list()


async def ask_async():
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
        await client.models.list()


def outcomes():
    memory.clear()
    ask()
    asyncio.run(ask_async())
    return [span.attributes["assisters.call.outcome"] for span in memory.calls()]


def put_in():
    kinds = openai.OpenAI, openai.AsyncOpenAI, *openai.OpenAI.__mro__, *openai.AsyncOpenAI.__mro__
    methods = {{vars(kind)["request"] for kind in kinds if "request" in vars(kind)}}
    return [str(one) for one in methods if "assisters_otel" in one.__code__.co_filename]


class OfTheApp(OpenAIInstrumentor):
    pass


theirs = {kind}()
seen = []
with FakeApi() as api:
    for before in (True, False, True):
        if before:
            theirs.instrument(tracer_provider=memory.tracer_provider)
        with assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            if not before:
                theirs.instrument(tracer_provider=memory.tracer_provider)
            theirs.uninstrument()
            inside = outcomes()
        seen.append([inside, outcomes(), put_in()])
print(json.dumps(seen))
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "OpenAIInstrumentor") for name in MODULES), ("openinference", "OfTheApp")],
)
def test_one_that_is_switched_off_while_we_are_on_leaves_our_calls_until_we_are(
    name, kind, pytestconfig
):
    tests = str(pytestconfig.rootpath / "tests")
    script = SCRIPT.format(module=MODULES[name], kind=kind, tests=tests)

    seen = json.loads(passed(script, by=()).out.splitlines()[-1])

    assert seen == [[["ok", "ok"], [], []]] * 3, "switched on before us, after us, before us"


DERIVED = """
import openai
from openinference.instrumentation.openai import OpenAIInstrumentor

import assisters_otel


class OfTheApp(OpenAIInstrumentor):
    pass


held = openai.OpenAI.request, openai.AsyncOpenAI.request  # so that init looks for who holds them
with assisters_otel.init(hosts=["gw.example"]):
    print(type(OfTheApp()).__name__)
"""


def test_a_class_that_the_app_derives_from_an_instrumentor_has_an_instance_of_its_own():
    """An instrumentor has one instance, also for the classes that are derived from it by then."""
    none = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}

    assert passed(DERIVED, by=(), **none).out.splitlines()[-1] == "OfTheApp"


@contextmanager
def instrumented_as_by_logfire(client):
    """Enclose ``request`` of a client or of a class as `logfire.instrument_openai` does."""
    original = client.request

    def request(*args, **kwargs):
        return original(*args, **kwargs)

    of_logfire = type(request)(
        request.__code__, {"__name__": patching._LOGFIRE}, closure=request.__closure__
    )
    of_logfire.__wrapped__ = original
    client.request, client._original_request_method = of_logfire, original
    try:
        yield
    finally:
        client.request = client._original_request_method
        del client._original_request_method


async def asked(client):
    answer = client.models.list()
    if isinstance(client, openai.AsyncOpenAI):
        await answer
        await client.close()
    else:
        client.close()


@pytest.fixture
def restored():
    """The classes of the clients, without what is put back into them."""
    yield
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        if "request" in vars(kind):
            del kind.request


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("is_before", [True, False], ids=["before us", "after us"])
@pytest.mark.parametrize("of", ["class", "client"])
@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_what_logfire_puts_back_is_no_way_around_us(api, memory, kind, of, is_before):
    client = kind(base_url=api.url, api_key="ask_k")
    logfire = instrumented_as_by_logfire(kind if of == "class" else client)
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    if is_before:
        logfire.__enter__()
    with assisters_otel.init(hosts=[api.url], strict=True, **options):
        if not is_before:
            logfire.__enter__()
        logfire.__exit__(None, None, None)
        asyncio.run(asked(client))

    assert memory.call().attributes[OUTCOME] == "ok"
    left = vars(client).get("request", kind.request)
    assert "assisters_otel" not in getattr(left, "__func__", left).__code__.co_filename
