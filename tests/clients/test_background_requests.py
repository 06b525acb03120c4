"""What is sent while a call of an SDK is open: what is part of it, and what is not."""

from __future__ import annotations

import asyncio
import contextvars
import io
import threading
from typing import Any, NamedTuple

import aiohttp
import anyio
import anyio.to_thread
import httpx
import httpx2
import openai
import pytest
import requests

from assisters_otel.attempts.attempt import current_call
from callers import TLS

pytestmark = pytest.mark.usefixtures("telemetry")

RETRIES = "assisters.client.retries"
COUNT = "http.request.resend_count"
OUTCOME = "assisters.call.outcome"
OTHER = {"input": "of somebody else"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0.01)


class Way(NamedTuple):
    """One HTTP client that carries an SDK's requests.

    Attributes:
        name: For the ids of tests.
        is_async: Whether it is.
        make: Makes it with the options of an httpx client.
    """

    name: str
    is_async: bool
    make: Any

    def client(self, api, hook=None, **options):
        """Make an SDK's client; *hook* gets each of its requests."""

        async def async_hook(request):
            answer = hook(request)
            if answer is not None:
                await answer

        wanted = async_hook if self.is_async else hook
        hooks = {} if hook is None else {"event_hooks": {"request": [wanted]}}
        kind = openai.AsyncOpenAI if self.is_async else openai.OpenAI
        http = self.make(**hooks, **options)
        return kind(base_url=api.url, api_key="ask_k", http_client=http, timeout=30)

    def run(self, client, ask):
        if not self.is_async:
            with client:
                return ask(client)

        async def main():
            async with client:
                return await ask(client)

        return asyncio.run(main())

    def __str__(self) -> str:
        return self.name


WAYS = [
    Way("httpx2", False, lambda **told: openai.DefaultHttpxClient(verify=TLS, **told)),
    Way("httpx", False, lambda **told: httpx.Client(verify=TLS, **told)),
    Way("httpx2-async", True, lambda **told: openai.DefaultAsyncHttpxClient(verify=TLS, **told)),
    Way("httpx-async", True, lambda **told: httpx.AsyncClient(verify=TLS, **told)),
    Way("aiohttp", True, openai.DefaultAioHttpClient),
]


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    return request.param


def embed(client):
    return client.embeddings.create(model="m", input="mine")


def models(client):
    return client.models.list()


def transcribe(client):
    return client.audio.transcriptions.create(model="m", file=io.BytesIO(b"mine"))


ASKED = {
    "a body": (embed, "POST", "/embeddings", {"json": OTHER}),
    "no body": (models, "GET", "/models", {}),
    "multipart": (
        transcribe,
        "POST",
        "/audio/transcriptions",
        {"files": {"file": b"sound"}, "data": {"model": "m"}},
    ),
}


def send_other(api, asked):
    _, method, path, options = ASKED[asked]
    with httpx2.Client(verify=TLS) as other:
        other.request(method, api.url + path, **options)


async def send_other_async(api, asked):
    _, method, path, options = ASKED[asked]
    async with httpx2.AsyncClient(verify=TLS) as other:
        await other.request(method, api.url + path, **options)


def at_once(api, asked, way):
    return lambda _: send_other_async(api, asked) if way.is_async else send_other(api, asked)


def in_a_thread(api, asked, _):
    """Of its own, which has the context of the call."""

    def hook(_):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(send_other, api, asked))
        thread.start()
        thread.join()

    return hook


def in_a_task(api, asked, way):
    if not way.is_async:
        pytest.skip("there are no tasks")
    return lambda _: asyncio.create_task(send_other_async(api, asked))


def firsts_and_resends(memory):
    return sorted(span.attributes.get(COUNT, 0) for span in memory.attempts())


@pytest.mark.parametrize("by", [at_once, in_a_thread, in_a_task])
@pytest.mark.parametrize("asked", ASKED)
def test_a_background_request_is_no_attempt_of_the_call_beside_it(api, memory, way, asked, by):
    """Sent to the same endpoint by another client, before the call's own attempt."""
    way.run(way.client(api, by(api, asked, way)), ASKED[asked][0])

    assert len(api.requests) == 2
    assert firsts_and_resends(memory) == [0, 0]
    said = memory.call().attributes
    assert (said["assisters.retry.count"], said[OUTCOME]) == (0, "ok")
    assert said["assisters.request.id"] == memory.attempts()[1].attributes["assisters.request.id"]
    assert memory.points(RETRIES) == []


def test_a_background_request_that_fails_has_its_own_line(api, memory, way, caplog):
    """And the call, which is retried beside it, counts its own attempts alone."""
    api.answers("invalid_api_key", "internal_error", "insufficient_funds", "ok")

    sent = []

    def hook(_):
        sent.append({"input": f"another, {len(sent)}"})
        return fetched() if way.is_async else ask_other()

    def ask_other():
        with httpx2.Client(verify=TLS) as other:
            other.post(api.url + "/embeddings", json=sent[-1])

    async def fetched():
        async with httpx2.AsyncClient(verify=TLS) as other:
            await other.post(api.url + "/embeddings", json=sent[-1])

    way.run(way.client(api, hook), embed)

    assert len(api.requests) == 4
    said = memory.call().attributes
    assert (said["assisters.retry.count"], said[OUTCOME]) == (1, "recovered")
    (retry,) = memory.points(RETRIES)
    assert (retry["value"], retry["assisters.retry.reason"]) == (1, "internal_error")
    lines = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert ["invalid_api_key" in line for line in lines].count(True) == 1
    assert ["insufficient_funds" in line for line in lines].count(True) == 1


@pytest.mark.parametrize("by", ["requests", "aiohttp"])
def test_a_background_request_of_another_kind_of_client_is_no_attempt_either(api, memory, by):
    async def other(_):
        url = api.url + "/embeddings"
        if by == "requests":
            await asyncio.to_thread(requests.post, url, json=OTHER, timeout=60)
        else:
            async with aiohttp.ClientSession() as session, session.post(url, json=OTHER):
                pass

    way = WAYS[2]
    way.run(way.client(api, other), embed)

    assert firsts_and_resends(memory) == [0, 0]
    assert memory.call().attributes["assisters.retry.count"] == 0


# -- what is the call's ----------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ASKED)
def test_a_call_s_own_resends_are_its_own(api, memory, way, asked):
    api.answers("internal_error", "model_overloaded")

    way.run(way.client(api), ASKED[asked][0])

    assert firsts_and_resends(memory) == [0, 1, 2]
    assert memory.call().attributes["assisters.retry.count"] == 2


def unmarked(request):
    """Take away what says that an SDK sends it."""
    for name in [name for name in request.headers if name.lower().startswith("x-stainless")]:
        del request.headers[name]
    request.headers["user-agent"] = "our-gateway"


def rewritten(request):
    """Send another body, as a gateway's hook does."""
    new = type(request)("POST", request.url, json={"input": "mine", "team": "a"})
    request.stream, request._content = new.stream, new.content
    request.headers["content-length"] = new.headers["content-length"]


@pytest.mark.parametrize("changed", [unmarked, rewritten])
@pytest.mark.parametrize("asked", ASKED)
def test_what_a_hook_has_changed_is_still_the_call_s(api, memory, way, changed, asked):
    if changed is rewritten and asked != "a body":
        pytest.skip("it has no such body")
    api.answers("internal_error")

    way.run(way.client(api, changed), ASKED[asked][0])

    assert firsts_and_resends(memory) == [0, 1]
    assert memory.call().attributes["assisters.retry.count"] == 1


@pytest.mark.parametrize("module", [httpx, httpx2])
@pytest.mark.parametrize("changed", [unmarked, rewritten])
def test_what_a_transport_makes_anew_is_still_the_call_s(api, memory, module, changed):
    class Gateway(module.BaseTransport):
        inner = module.HTTPTransport(verify=TLS)

        def handle_request(self, request):
            anew = module.Request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.read(),
                extensions=request.extensions,
            )
            changed(anew)
            return self.inner.handle_request(anew)

        def close(self):
            self.inner.close()

    api.answers("internal_error")
    http = module.Client(transport=Gateway())
    with openai.OpenAI(base_url=api.url, api_key="ask_k", http_client=http) as client:
        embed(client)

    assert firsts_and_resends(memory) == [0, 1]
    assert memory.call().attributes["assisters.retry.count"] == 1


@pytest.mark.parametrize("run", [asyncio.to_thread, anyio.to_thread.run_sync])
def test_what_a_thread_sends_for_the_call_is_its_own(api, memory, run):
    """A transport of an async client that sends with a sync one."""

    class InThreads(httpx2.AsyncBaseTransport):
        inner = httpx2.HTTPTransport(verify=TLS)

        async def handle_async_request(self, request):
            response = await run(self.inner.handle_request, request)
            content = await run(response.read)
            response.close()
            return httpx2.Response(response.status_code, headers=response.headers, content=content)

        async def aclose(self):
            self.inner.close()

    api.answers("internal_error")

    async def main():
        http = httpx2.AsyncClient(transport=InThreads())
        async with openai.AsyncOpenAI(
            base_url=api.url, api_key="ask_k", http_client=http
        ) as client:
            await embed(client)

    asyncio.run(main())

    assert firsts_and_resends(memory) == [0, 1]
    assert memory.call().attributes["assisters.retry.count"] == 1


def test_a_token_that_a_hook_fetches_elsewhere_is_as_ever(api, memory, way):
    def hook(request):
        request.headers["authorization"] = "Bearer ask_new"
        if way.is_async:
            return fetched()
        with httpx2.Client(verify=TLS) as other:
            other.post(api.url + "/oauth/token")
        return None

    async def fetched():
        async with httpx2.AsyncClient(verify=TLS) as other:
            await other.post(api.url + "/oauth/token")

    way.run(way.client(api, hook), embed)

    assert firsts_and_resends(memory) == [0, 0]
    assert memory.call().attributes["assisters.retry.count"] == 0


def test_a_call_holds_no_request_once_it_is_over(api):
    held = []

    def hook(_):
        held.append(current_call())

    way = WAYS[0]
    way.run(way.client(api, hook), embed)

    assert held[0].built_request is None
