"""A gateway's name is given in one form and sent to in another: it is the same host."""

from __future__ import annotations

import socket

import assisters
import openai
import pytest

import assisters_otel

FORMS = ["bücher.example", "xn--bcher-kva.example", "BÜCHER.Example", "XN--BCHER-KVA.example"]


@pytest.fixture(autouse=True)
def _every_name_is_here(monkeypatch):
    find = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _host, *args, **options: find("127.0.0.1", *args, **options)
    )


@pytest.fixture
def watch(memory):
    def watch(host):
        return assisters_otel.init(
            hosts=[host],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        )

    return watch


@pytest.mark.sampled
@pytest.mark.parametrize("given", [*FORMS, "bücher.example."])
@pytest.mark.parametrize("asked", FORMS)
def test_a_name_that_is_not_ascii_is_watched_in_each_of_its_forms(
    anyone, api, memory, watch, given, asked
):
    api.answers("api_key_revoked")

    with watch(given):
        anyone.send("GET", f"http://{asked}:{api.port}/v1/models")

    (span,) = memory.spans()
    assert span.attributes["error.code"] == "api_key_revoked"
    assert memory.points("assisters.client.errors")[0]["server.address"] == ("bücher.example")


@pytest.mark.parametrize("given", ["gateway.example", "gateway.example."])
@pytest.mark.parametrize("asked", ["gateway.example", "GateWay.Example", "gateway.example."])
def test_a_name_is_watched_with_a_last_dot_and_without(anyone, api, memory, watch, given, asked):
    with watch(given):
        anyone.send("GET", f"http://{asked}:{api.port}/v1/models")

    assert len(memory.spans()) == 1


@pytest.mark.parametrize("asked", FORMS)
@pytest.mark.parametrize("kind", [openai.OpenAI, assisters.Assisters])
def test_a_call_to_such_a_name_has_its_span(api, memory, watch, kind, asked):
    with watch("bücher.example"):
        client = kind(base_url=f"http://{asked}:{api.port}/v1", api_key="ask_test")
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
        client.close()

    assert sorted(span.name for span in memory.spans()) == ["POST /v1/chat/completions", "chat m"]
