from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
import threading
import types
from importlib.util import find_spec
from unittest import mock

import aiohttp
import assisters
import httpx
import httpx2
import openai
import pytest
import requests
import wrapt
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.connector import BaseConnector
from requests.adapters import HTTPAdapter, Retry

import assisters_otel
from assisters_otel.clients import import_hooks, patching
from assisters_otel.fail_safe import own_errors
from memory import watching

ON = types.SimpleNamespace(patched={"a client": "1.0"}, replaced=[])
ENDED = types.SimpleNamespace(patched={}, replaced=[])


def layer(wrapped, _instance, args, kwargs):
    return ["layer", *wrapped(*args, **kwargs)]


def ours(original):
    def method(self):
        return ["ours", *original(self)]

    return method


def later(original):
    def method(self):
        return ["later", *original(self)]

    return method


@pytest.fixture
def owner():
    class Owner:
        def method(self):
            return ["method"]

    return Owner


def wrap(owner):
    owner.method = wrapt.FunctionWrapper(vars(owner)["method"], layer)


def test_ours_lies_innermost_whoever_came_first(owner):
    wrap(owner)
    wrap(owner)
    patching.wrap_innermost(owner, "method", ours, ON)
    wrap(owner)

    assert owner().method() == ["layer", "layer", "layer", "ours", "method"]


def wrap_as_logfire(owner):
    """Wrap it by a function of logfire's module, which holds it in a cell and looks like it."""
    original = vars(owner)["method"]

    def theirs(self):
        return ["logfire", *original(self)]

    of_logfire = types.FunctionType(
        theirs.__code__, {"__name__": patching._LOGFIRE}, closure=theirs.__closure__
    )
    owner.method = functools.wraps(original)(of_logfire)


def test_ours_lies_below_logfire_s_function_in_any_order(owner):
    before = vars(owner)["method"]
    wrap_as_logfire(owner)
    patching.wrap_innermost(owner, "method", ours, ON)
    wrap(owner)
    assert owner().method() == ["layer", "logfire", "ours", "method"]
    wrap_as_logfire(owner)
    patching.wrap_innermost(owner, "method", ours, ON)
    assert owner().method() == ["logfire", "layer", "logfire", "ours", "method"]

    patching.unwrap(owner, "method", ON)

    assert owner().method() == ["logfire", "layer", "logfire", "method"]
    assert inspect.unwrap(vars(owner)["method"]) is before


def test_ours_is_put_in_once(owner):
    patching.wrap_innermost(owner, "method", ours, ON)
    patching.wrap_innermost(owner, "method", later, ON)

    assert owner().method() == ["ours", "method"]


def test_ours_looks_like_what_it_stands_for(owner):
    before = inspect.signature(owner.method), owner.method.__qualname__
    patching.wrap_innermost(owner, "method", ours, ON)

    assert inspect.isfunction(vars(owner)["method"])
    assert (inspect.signature(owner.method), owner.method.__qualname__) == before


def test_somebody_s_copy_of_our_attributes_is_not_ours(owner):
    patching.wrap_innermost(owner, "method", ours, ON)
    inner = vars(owner)["method"]

    @functools.wraps(inner)
    def theirs(self):
        return ["theirs", *inner(self)]

    owner.method = theirs
    patching.unwrap(owner, "method", ON)

    assert owner().method() == ["theirs", "ours", "method"]


def test_ours_is_put_below_a_layer_that_was_left_bound(owner):
    from opentelemetry.instrumentation.utils import unwrap

    wrap(owner)
    wrap(owner)
    unwrap(owner, "method")
    patching.wrap_innermost(owner, "method", ours, ON)
    assert owner().method() == ["layer", "ours", "method"]
    patching.unwrap(owner, "method", ON)
    assert owner().method() == ["layer", "method"]


def test_one_that_hung_on_beyond_its_end_is_replaced(owner):
    before = vars(owner)["method"]
    patching.wrap_innermost(owner, "method", ours, ENDED)
    patching.wrap_innermost(owner, "method", later, ON)

    assert owner().method() == ["later", "method"]
    patching.unwrap(owner, "method", ON)
    assert vars(owner)["method"] is before


def test_ours_is_taken_out_from_below_others(owner):
    before = vars(owner)["method"]
    patching.wrap_innermost(owner, "method", ours, ON)
    wrap(owner)
    wrap(owner)
    patching.unwrap(owner, "method", ON)

    assert owner().method() == ["layer", "layer", "method"]
    assert vars(owner)["method"].__wrapped__.__wrapped__ is before


def test_taking_out_what_is_not_in_changes_nothing(owner):
    wrap(owner)
    before = vars(owner)["method"]
    patching.unwrap(owner, "method", ON)

    assert vars(owner)["method"] is before


def test_ours_is_taken_out_after_somebody_unwrapped_theirs(owner):
    from opentelemetry.instrumentation.utils import unwrap

    before = vars(owner)["method"]
    wrap(owner)
    patching.wrap_innermost(owner, "method", ours, ON)
    unwrap(owner, "method")
    assert owner().method() == ["ours", "method"]
    patching.wrap_innermost(owner, "method", ours, ON)
    assert owner().method() == ["ours", "method"]
    patching.unwrap(owner, "method", ON)

    assert vars(owner)["method"] is before


# -- what somebody has put in a method's place ---------------------------------------------------


class Bound:
    """A descriptor that is neither a function nor a mock, and knows whom it was asked for."""

    def __init__(self, function, met):
        self._function = function
        self._met = met

    def __get__(self, instance, owner):
        self._met.append((instance, owner))
        return types.MethodType(self._function, instance)


def by_openai(api):
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        return client.models.list().data


def by_openai_async(api):
    async def main():
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
            return (await client.models.list()).data

    return asyncio.run(main())


def by_assisters(api):
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        return client.models.list()


def by_assisters_stream(api):
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        return list(client.chat.completions.create(model="m", messages=[], stream=True))


def by_requests(api):
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=Retry(1, status_forcelist=[503])))
        return session.get(f"{api.url}/models").status_code


async def _get(api):
    async with aiohttp.ClientSession() as session, session.get(f"{api.url}/models") as response:
        response.raise_for_status()
        return await response.read()


def by_aiohttp(api):
    return asyncio.run(_get(api))


def by_httpx(module):
    def send(api):
        with module.Client() as client:
            return client.get(f"{api.url}/models").json()

    return send


def by_httpx_async(module):
    async def get(api):
        async with module.AsyncClient() as client:
            return (await client.get(f"{api.url}/models")).json()

    return lambda api: asyncio.run(get(api))


PATCHED = [
    *((m.HTTPTransport, "handle_request", by_httpx(m)) for m in (httpx, httpx2)),
    *((m.AsyncHTTPTransport, "handle_async_request", by_httpx_async(m)) for m in (httpx, httpx2)),
    (HTTPAdapter, "send", by_requests),
    (Retry, "increment", by_requests),
    (requests.Session, "send", by_requests),
    (aiohttp.ClientSession, "_request", by_aiohttp),
    (BaseConnector, "connect", by_aiohttp),
    (ClientRequest, "send", by_aiohttp),
    (ClientResponse, "start", by_aiohttp),
    (ClientResponse, "raise_for_status", by_aiohttp),
    (openai._base_client.SyncAPIClient, "request", by_openai),
    (openai._base_client.AsyncAPIClient, "request", by_openai_async),
    (assisters.Assisters, "_request", by_assisters),
    (assisters.Assisters, "_stream", by_assisters_stream),
]


@pytest.mark.parametrize(
    ("owner", "name", "send"),
    PATCHED,
    ids=[f"{owner.__module__}.{owner.__name__}.{name}" for owner, name, _ in PATCHED],
)
def test_a_descriptor_in_a_method_s_place_gets_its_instance(
    api, memory, monkeypatch, owner, name, send
):
    met = []
    descriptor = Bound(vars(owner)[name], met)
    monkeypatch.setattr(owner, name, descriptor)
    if owner is Retry:
        api.answers(status=503)

    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ) as telemetry:
        met.clear()
        assert send(api)
        assert telemetry.status().attempts == len(api.requests)

    assert met
    assert [type(instance) for instance, _ in met] == [kind for _, kind in met]
    assert all(isinstance(instance, owner) for instance, _ in met)
    assert vars(owner)[name] is descriptor


# -- what waits for an import --------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("assisters_otel_test_client")

    class Client:
        def send(self):
            return ["send"]

    module.Client = Client
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def patches(module):
    target = patching.Target(module.__name__, "Client.send", ours)
    return patching.Patches((target,))


def test_a_module_is_patched_again_and_again(module):
    first = vars(module.Client)["send"]

    for _ in range(3):
        installed = patches(module)
        installed.apply()
        assert module.Client().send() == ["ours", "send"]
        assert installed.patched == {module.__name__: "unknown"}
        installed.undo()
        assert vars(module.Client)["send"] is first

    assert module.__name__ not in import_hooks.imports._waiting


def test_patches_may_be_taken_out_while_another_thread_puts_some_in(module):
    another = patches(types.SimpleNamespace(__name__="assisters_otel_test_another"))
    thread = threading.Thread(target=another.apply)

    class Slow(patching.Patches):
        """Asked whether it is the one that is taken out, it lets another thread go first."""

        def __eq__(self, other):
            if thread.ident is None:
                thread.start()
                thread.join(0.3)  # it is done by then, or waits for us
            return self is other

        __hash__ = None

    target = patching.Target(module.__name__, "Client.send", ours)
    slow = Slow((target,))
    installed = patches(module)
    slow.apply()
    installed.apply()

    installed.undo()

    thread.join()
    assert import_hooks.imports._waiting[module.__name__] == [slow]
    assert import_hooks.imports._waiting["assisters_otel_test_another"] == [another]
    slow.undo()
    another.undo()


class Counted:
    """Counts what is reported to it."""

    def __init__(self):
        self.names = []

    def imported(self, _module, name):
        self.names.append(name)


@pytest.fixture
def added(monkeypatch):
    """Return a function that adds a module without an import, as uWSGI does, then seeks others."""
    name = "assisters_otel_test_added"

    def add():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for other in ("one", "another"):
            assert find_spec(f"assisters_otel_test_{other}") is None

    add.name = name
    return add


def test_a_module_that_is_added_without_an_import_is_reported_once(added):
    listener = Counted()
    import_hooks.imports.watch(added.name, listener, is_added=True)

    added()

    assert listener.names == [added.name]
    import_hooks.imports.forget(listener)


def test_a_module_that_was_added_while_nobody_waited_is_reported_once(added):
    before, listener = Counted(), Counted()
    import_hooks.imports.watch(added.name, before, is_added=True)
    import_hooks.imports.forget(before)
    added()

    import_hooks.imports.watch(added.name, listener, is_added=True)
    added()

    assert (before.names, listener.names) == ([], [added.name])
    import_hooks.imports.forget(listener)


def test_a_client_of_another_shape_does_not_break_its_import(module):
    del module.Client.send
    installed = patches(module)
    installed.apply()
    installed.undo()

    assert own_errors.last_failure == "KeyError: 'send'"


@pytest.mark.skipif(not hasattr(httpx2, "alias_httpx"), reason="an older httpx2 has one name")
def test_httpx2_under_httpx_s_name_is_patched_once():
    from scripts import passed

    done = passed(
        """
        import assisters_otel
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from assisters_otel.testing import FakeApi
        spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(spans))
        import httpx2
        with FakeApi() as api:
            telemetry = assisters_otel.init("x", hosts=[api.url], tracer_provider=provider)
            httpx2.alias_httpx()
            import httpx
            assert httpx.HTTPTransport is httpx2.HTTPTransport
            httpx.get(api.url + "/models", trust_env=False)
            print(telemetry.status().attempts, telemetry.status().last_failure)
            telemetry.shutdown()
            httpx.get(api.url + "/models", trust_env=False)
        print(len(spans.get_finished_spans()), type(vars(httpx.HTTPTransport)["handle_request"]))
        """,
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.out == "1 None\n1 <class 'function'>\n"


@pytest.mark.parametrize("how", ["alone", "by name", "and more"])
def test_a_transport_of_httpx_gets_all_that_it_is_called_with(
    api, memory, caller, monkeypatch, how
):
    """The app has put another method in its place, which takes more than the request."""
    kind = caller.module.AsyncHTTPTransport if caller.run else caller.module.HTTPTransport
    name = "handle_async_request" if caller.run else "handle_request"
    seen, before = [], vars(kind)[name]

    def method(self, request, *args, **options):
        seen.append((args, options))
        return before(self, request)

    class Own(kind):
        pass

    def own(self, request):
        if how == "and more":
            return getattr(super(Own, self), name)(request, "fast", tier="gold")
        send = getattr(super(Own, self), name)
        return send(request=request) if how == "by name" else send(request)

    setattr(Own, name, own)
    monkeypatch.setattr(kind, name, method)
    with watching(api, memory) as telemetry:
        client = caller.client(transport=Own())
        assert caller.send("GET", f"{api.url}/models", client=client).status_code == 200
        assert telemetry.status().attempts == 1

    assert seen == [(("fast",), {"tier": "gold"}) if how == "and more" else ((), {})]


# -- the names of parameters -------------------------------------------------------------------

RUNTIMES = (
    "awslambdaric.bootstrap",
    "dramatiq.worker",
    "rq",
    "uvicorn",
    "httpx_retries",
    "aiohttp_retry",
)


def _taken_names(function):
    """Return the parameters that can be given by name to a function, but not to its original."""
    given = inspect.signature(function, follow_wrapped=False).parameters.values()
    own = {one.name: place for place, one in enumerate(given) if one.kind in _BY_NAME}
    original = inspect.signature(function.__wrapped__).parameters
    known = dict(zip(original, range(len(original)), strict=True))
    return [name for name, place in own.items() if known.get(name) != place]


_BY_NAME = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.usefixtures("telemetry")
def test_no_wrapper_takes_a_keyword_argument_that_is_for_the_original():
    for name in RUNTIMES:
        if find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)

    wrappers = list(patching._patches_by_function)
    assert {vars(owner)[name] for owner, name, _ in PATCHED} <= set(wrappers)
    taken = {f"{one.__module__}.{one.__qualname__}": _taken_names(one) for one in wrappers}
    assert {one: names for one, names in taken.items() if names} == {}


@pytest.mark.parametrize("original", [mock.MagicMock(), Bound(mock.MagicMock(), [])])
def test_what_stands_in_a_method_s_place_gets_every_keyword_argument(original):
    function = patching.as_function(original)
    parameters = inspect.signature(function).parameters.values()

    assert [one.name for one in parameters if one.kind in _BY_NAME] == []


class Told(HTTPAdapter):
    """Takes an argument that requests hands on from `Session.send`."""

    def send(self, request, told=None, **kwargs):
        self.told = told, kwargs.pop("session", None)
        return super().send(request, **kwargs)


@pytest.mark.parametrize("is_watched", [True, False])
@pytest.mark.parametrize("name", ["session", "adapter", "call", "one", "self", "args", "told"])
def test_a_keyword_argument_of_a_session_s_send_goes_where_it_goes_without_us(
    api, memory, name, is_watched
):
    def send():
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", adapter := Told())
            asked = session.prepare_request(requests.Request("GET", f"{api.url}/models"))
            try:
                response = session.send(asked, **{name: 1})
            except TypeError as error:
                return str(error)
            return response.status_code, adapter.told

    without = send()
    with watching(api, memory, hosts=[api.url] if is_watched else ["elsewhere.test"]):
        assert send() == without
