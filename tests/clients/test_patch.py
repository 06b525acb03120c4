from __future__ import annotations

import functools
import inspect
import sys
import types

import httpx2
import pytest
import wrapt

from assisters_otel.clients import patch

ON = types.SimpleNamespace(patched={"a client": "1.0"})
ENDED = types.SimpleNamespace(patched={})


def layer(wrapped, _instance, args, kwargs):
    return ["layer", *wrapped(*args, **kwargs)]


def ours(original):
    def method(self):
        return ["ours", *original(self)]

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
    patch.put_in(owner, "method", ours, ON)
    wrap(owner)

    assert owner().method() == ["layer", "layer", "layer", "ours", "method"]


def test_ours_is_put_in_once(owner):
    patch.put_in(owner, "method", ours, ON)
    patch.put_in(owner, "method", ours, ON)

    assert owner().method() == ["ours", "method"]


def test_ours_looks_like_what_it_stands_for(owner):
    before = inspect.signature(owner.method), owner.method.__qualname__
    patch.put_in(owner, "method", ours, ON)

    assert inspect.isfunction(vars(owner)["method"])
    assert (inspect.signature(owner.method), owner.method.__qualname__) == before


def test_somebody_s_copy_of_our_attributes_is_not_ours(owner):
    patch.put_in(owner, "method", ours, ON)
    inner = vars(owner)["method"]

    @functools.wraps(inner)
    def theirs(self):
        return ["theirs", *inner(self)]

    owner.method = theirs
    patch.take_out(owner, "method")

    assert owner().method() == ["theirs", "ours", "method"]


def test_ours_is_put_below_a_layer_that_was_left_bound(owner):
    from opentelemetry.instrumentation.utils import unwrap

    wrap(owner)
    wrap(owner)
    unwrap(owner, "method")
    patch.put_in(owner, "method", ours, ON)
    assert owner().method() == ["layer", "ours", "method"]
    patch.take_out(owner, "method")
    assert owner().method() == ["layer", "method"]


def test_one_that_hung_on_beyond_its_end_is_replaced(owner):
    before = vars(owner)["method"]
    patch.put_in(owner, "method", ours, ENDED)
    patch.put_in(owner, "method", ours, ON)

    assert owner().method() == ["ours", "method"]
    patch.take_out(owner, "method")
    assert vars(owner)["method"] is before


def test_ours_is_taken_out_from_below_others(owner):
    before = vars(owner)["method"]
    patch.put_in(owner, "method", ours, ON)
    wrap(owner)
    wrap(owner)
    patch.take_out(owner, "method")

    assert owner().method() == ["layer", "layer", "method"]
    assert vars(owner)["method"].__wrapped__.__wrapped__ is before


def test_taking_out_what_is_not_in_changes_nothing(owner):
    wrap(owner)
    before = vars(owner)["method"]
    patch.take_out(owner, "method")

    assert vars(owner)["method"] is before


def test_ours_is_taken_out_after_somebody_unwrapped_theirs(owner):
    from opentelemetry.instrumentation.utils import unwrap

    before = vars(owner)["method"]
    wrap(owner)
    patch.put_in(owner, "method", ours, ON)
    unwrap(owner, "method")
    assert owner().method() == ["ours", "method"]
    patch.put_in(owner, "method", ours, ON)
    assert owner().method() == ["ours", "method"]
    patch.take_out(owner, "method")

    assert vars(owner)["method"] is before


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("assisters_otel_test_client")

    class Client:
        def send(self):
            return ["send"]

    module.Client = Client
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def patches(module, told, guard=lambda step, *args: step(*args)):
    target = patch.Target(module.__name__, "Client.send", ours)
    return patch.Patches((target,), guard, told.append)


def test_a_module_is_patched_again_and_again_and_told_of_each_time(module):
    told = []
    first = vars(module.Client)["send"]

    for _ in range(3):
        installed = patches(module, told)
        installed.put_in()
        assert module.Client().send() == ["ours", "send"]
        assert installed.patched == {module.__name__: "unknown"}
        installed.take_out()
        assert vars(module.Client)["send"] is first

    assert told == [module.__name__] * 3
    assert patch._imports._waiting[module.__name__] == []


def test_a_client_of_another_shape_does_not_break_its_import(module):
    troubles = []

    def guard(step, *args):
        try:
            step(*args)
        except KeyError as error:
            troubles.append(error)

    del module.Client.send
    installed = patches(module, [], guard)
    installed.put_in()
    installed.take_out()

    assert troubles


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
