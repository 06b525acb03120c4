"""Equal requests that are no resends: pools, batches, queues, several users of one thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import aiohttp
import aiohttp_retry
import assisters
import httpx
import httpx2
import httpx_retries
import openai
import pytest
import requests
from opentelemetry import context
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from callers import ANYONE, CALLERS, TLS
from sizes import sized

pytestmark = pytest.mark.usefixtures("telemetry")

RETRIES = "assisters.client.retries"
COUNT = "http.request.resend_count"
FUTILE = "assisters.retry.futile"
KEY = {"authorization": "Bearer ask_k"}
BODY = {"model": "assisters-embed-v1", "input": "hello"}
WORKERS = 4
ITEMS = sized(40, at_least=20)


@pytest.fixture
def parent(memory):
    tracer = memory.tracer_provider.get_tracer("app")
    return lambda: tracer.start_as_current_span("work")


@pytest.fixture(params=["a span", "no span"])
def around(request, parent):
    return parent if request.param == "a span" else contextlib.nullcontext


def numbers(memory):
    return [span.attributes.get(COUNT, 0) for span in memory.attempts()]


def marks(memory):
    repeated = [one for one in memory.spans() if "assisters.call.resend_count" in one.attributes]
    return max(sum(map(bool, numbers(memory))), len(repeated))


def futile(memory):
    return [span.attributes.get(FUTILE) for span in memory.attempts()]


# -- many at once, and no retry helps --------------------------------------------------------------


class Sender(NamedTuple):
    """One way of sending the same request again and again.

    Attributes:
        name: For the ids of tests.
        client: Makes a client of a base URL.
        send: Sends with it once, whatever comes; a coroutine function of an async client.
    """

    name: str
    client: Any
    send: Any

    def __str__(self) -> str:
        return self.name


def of_openai(kind):
    def client(url):
        return kind(base_url=url, api_key="ask_k", max_retries=0, timeout=60)

    return client


def by_openai(client, _):
    with contextlib.suppress(openai.APIStatusError):
        client.embeddings.create(**BODY)


def by_assisters(client, _):
    with contextlib.suppress(assisters.AssistersAPIError):
        client.embeddings.create(**BODY)


async def by_openai_async(client, _):
    with contextlib.suppress(openai.APIStatusError):
        await client.embeddings.create(**BODY)


async def by_httpx_async(client, url):
    await client.post(url + "/embeddings", json=BODY)


async def by_aiohttp(client, url):
    async with client.post(url + "/embeddings", json=BODY):
        pass


def by_client(client, url):
    client.post(url + "/embeddings", json=BODY, timeout=60)


SYNC = [
    Sender("httpx", lambda _: httpx.Client(headers=KEY, verify=TLS, timeout=60), by_client),
    Sender("requests", lambda _: requests.Session(), by_client),
    Sender("openai", of_openai(openai.OpenAI), by_openai),
    Sender("assisters", lambda url: assisters.Assisters("ask_k", base_url=url), by_assisters),
]
ASYNC = [
    Sender("httpx", lambda _: httpx.AsyncClient(verify=TLS, timeout=60), by_httpx_async),
    Sender("aiohttp", lambda _: aiohttp.ClientSession(), by_aiohttp),
    Sender("openai", of_openai(openai.AsyncOpenAI), by_openai_async),
]


def in_this_context(send):
    """Send under the span that is current here, in whichever thread."""
    here = context.get_current()

    def sent(_=None):
        token = context.attach(here)
        try:
            send()
        finally:
            context.detach(token)

    return sent


def by_map(send):
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(in_this_context(send), range(ITEMS)))


def by_batch(send):
    """As langchain's `batch`: each in a copy of the context."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for one in [pool.submit(contextvars.copy_context().run, send) for _ in range(ITEMS)]:
            one.result()


def by_workers(send):
    """Threads that take from one queue."""
    items = queue.SimpleQueue()
    for number in range(ITEMS):
        items.put(number)

    def work():
        with contextlib.suppress(queue.Empty):
            while True:
                items.get_nowait()
                send()

    threads = [threading.Thread(target=in_this_context(work)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def by_tasks(send):
    """Tasks that take from one queue."""
    items = asyncio.Queue()
    for number in range(ITEMS):
        items.put_nowait(number)

    async def work():
        while not items.empty():
            items.get_nowait()
            await send()

    await asyncio.gather(*(work() for _ in range(WORKERS)))


async def by_gather(send):
    """As langchain's `abatch`."""
    turn = asyncio.Semaphore(WORKERS)

    async def one():
        async with turn:
            await send()

    await asyncio.gather(*(one() for _ in range(ITEMS)))


async def by_to_thread(send):
    turn = asyncio.Semaphore(WORKERS)

    async def one():
        async with turn:
            await asyncio.to_thread(send)

    await asyncio.gather(*(one() for _ in range(ITEMS)))


def in_threads(sender, url, spread):
    with sender.client(url) as client:
        spread(lambda: sender.send(client, url))


def in_tasks(sender, url, spread):
    async def main():
        async with sender.client(url) as client:
            await spread(lambda: sender.send(client, url))

    asyncio.run(main())


async def in_threads_of_tasks(sender, url, spread):
    with sender.client(url) as client:
        await spread(lambda: sender.send(client, url))


SPREADS = {
    **{
        f"{sender}-{spread.__name__}": (in_threads, sender, spread)
        for sender in SYNC
        for spread in (by_map, by_batch, by_workers)
    },
    **{
        f"{sender}-async-{spread.__name__}": (in_tasks, sender, spread)
        for sender in ASYNC
        for spread in (by_tasks, by_gather)
    },
    "httpx-by_to_thread": (
        lambda *told: asyncio.run(in_threads_of_tasks(*told)),
        SYNC[0],
        by_to_thread,
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("way", SPREADS)
def test_equal_requests_that_are_refused_side_by_side_are_firsts(api, memory, around, way):
    api.answers("invalid_api_key", times=ITEMS, delay_s=0.005)
    run, sender, spread = SPREADS[way]

    with around():
        run(sender, api.url, spread)

    assert len(memory.attempts()) == ITEMS
    assert marks(memory) <= WORKERS
    assert sum(point["value"] for point in memory.points(RETRIES)) <= WORKERS


def test_among_errors_of_both_kinds_none_is_futile(api, memory, around):
    """What follows an error that a retry helps is a resend, and may meet one that none helps."""
    for _ in range(ITEMS // 2):
        api.answers("invalid_api_key", "rate_limit_exceeded", delay_s=0.005)

    with around():
        in_threads(SYNC[0], api.url, by_workers)

    assert futile(memory).count(True) <= WORKERS
    assert futile(memory).count(False) > WORKERS


STREAMED = {"model": "m", "messages": [], "stream": True}


def streamed_by_httpx(client, url):
    client.post(url + "/chat/completions", json=STREAMED)


def streamed_by_requests(client, url):
    client.post(url + "/chat/completions", json=STREAMED, timeout=60)


def streamed_by_openai(client, _):
    with contextlib.suppress(openai.APIError):
        list(client.chat.completions.create(**STREAMED))


@pytest.mark.parametrize(
    "sender",
    [
        SYNC[0]._replace(send=streamed_by_httpx),
        SYNC[1]._replace(send=streamed_by_requests),
        SYNC[2]._replace(send=streamed_by_openai),
    ],
    ids=str,
)
def test_streams_that_fail_side_by_side_are_firsts(api, memory, around, sender):
    """A stream is under way until its end, long after it was answered."""
    api.answers(in_stream="insufficient_funds", times=ITEMS, chunk_delay_s=0.02)

    with around():
        in_threads(sender, api.url, by_workers)

    assert len(memory.attempts()) == ITEMS
    assert marks(memory) <= WORKERS


@pytest.mark.parametrize("way", ["httpx-by_map", "httpx-async-by_tasks", "openai-async-by_gather"])
def test_a_slow_worker_makes_no_resends_of_what_the_others_send(api, memory, around, way):
    """What it waits for was sent before anything had failed."""
    api.answers("invalid_api_key", delay_s=0.4)
    api.answers("invalid_api_key", times=ITEMS - 1)
    run, sender, spread = SPREADS[way]

    with around():
        run(sender, api.url, spread)

    assert len(memory.attempts()) == ITEMS
    assert marks(memory) <= WORKERS


def test_a_worker_that_pauses_makes_no_resends_of_what_the_others_send(api, memory):
    api.answers("invalid_api_key", times=2, delay_s=2)
    api.answers("invalid_api_key", times=10)
    together = threading.Barrier(2)
    with httpx.Client(verify=TLS) as client:

        def work(pause):
            together.wait(60)
            by_client(client, api.url)
            if pause:
                together.wait(60)
                return
            for _ in range(10):
                by_client(client, api.url)
            together.wait(60)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (True, False)))

    assert marks(memory) <= 1


def test_what_a_retry_helps_is_sent_again_by_each_of_many(api, memory):
    """Each thread goes on with what is equal to what it met the error for."""
    api.answers("model_overloaded", times=ITEMS, delay_s=0.005)

    in_threads(SYNC[0], api.url, by_workers)

    assert numbers(memory).count(0) == WORKERS
    assert not any(futile(memory))


def test_a_loop_beside_other_requests_is_seen_as_futile(api, memory):
    """What is under way at the same time is not the same."""
    api.answers("invalid_api_key", times=60)
    is_over = threading.Event()
    with httpx.Client(verify=TLS) as client:

        def others(number):
            while not is_over.is_set():
                client.post(api.url + "/embeddings", json={"input": f"{number}"})
                is_over.wait(0.01)

        def loop():
            for _ in range(3):
                by_client(client, api.url)
            is_over.set()

        with ThreadPoolExecutor(3) as pool:
            beside = [pool.submit(others, number) for number in range(2)]
            pool.submit(loop).result()
            for one in beside:
                one.result()

    body = httpx.Request("POST", api.url, json=BODY).content
    sent = [request.body == body for request in api.requests]
    assert sent.count(True) == 3
    assert {2} <= set(numbers(memory))


def test_a_loop_after_a_pool_is_seen_as_futile(api, memory):
    api.answers("invalid_api_key", times=ITEMS + 3)
    in_threads(SYNC[0], api.url, by_map)
    memory.clear()

    with httpx.Client(verify=TLS) as client:
        for _ in range(3):
            by_client(client, api.url)

    assert futile(memory) == [None, True, True]


def test_who_went_on_in_a_pool_and_got_an_answer_is_a_stranger_to_it(api, memory):
    """A worker that loops by itself, after a success, is seen."""
    api.answers("invalid_api_key", times=2, delay_s=0.3)
    together = threading.Barrier(2)
    with httpx.Client(verify=TLS) as client, ThreadPoolExecutor(2) as pool:

        def once(_):
            together.wait(60)
            by_client(client, api.url)

        list(pool.map(once, range(2)))

        def alone():
            api.answers("ok")
            api.answers("invalid_api_key", times=2)
            for _ in range(3):
                by_client(client, api.url)

        pool.submit(alone).result()

    assert futile(memory)[-3:] == [None, None, True]


POLICY = {
    "total": 2,
    "status_forcelist": [401, 500],
    "allowed_methods": ["GET", "POST"],
    "backoff_factor": 0.001,
    "respect_retry_after_header": False,
}


def retrying_transport():
    return httpx_retries.RetryTransport(
        transport=httpx.HTTPTransport(verify=TLS), retry=httpx_retries.Retry(**POLICY)
    )


def retrying_httpx(method, url, times):
    with httpx.Client(transport=retrying_transport()) as client:
        for _ in range(times):
            client.request(method, url)


def retrying_httpx_async(method, url, times):
    async def main():
        policy = httpx_retries.Retry(**POLICY)
        transport = httpx.AsyncHTTPTransport(verify=TLS)
        async with httpx.AsyncClient(
            transport=httpx_retries.RetryTransport(transport=transport, retry=policy)
        ) as client:
            for _ in range(times):
                await client.request(method, url)

    asyncio.run(main())


def retrying_requests(method, url, times):
    again = Retry(**POLICY, raise_on_status=False)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=again))
        for _ in range(times):
            session.request(method, url)


def retrying_aiohttp(method, url, times):
    async def main():
        again = aiohttp_retry.ExponentialRetry(
            attempts=3, start_timeout=0.001, statuses={401, 500}, methods={"GET", "POST"}
        )
        async with aiohttp_retry.RetryClient(retry_options=again) as client:
            for _ in range(times):
                async with client.request(method, url):
                    pass

    asyncio.run(main())


RETRYING = [retrying_httpx, retrying_httpx_async, retrying_requests, retrying_aiohttp]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("send", RETRYING)
def test_what_a_client_s_own_retry_code_sends_again_is_its_resend(api, memory, send, method):
    """Side by side too, without a body, and although no retry helps."""
    api.answers("invalid_api_key", times=3 * WORKERS, delay_s=0.01)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda _: send(method, api.url + "/models", 1), range(WORKERS)))

    assert len(api.requests) == 3 * WORKERS
    assert sum(point["value"] for point in memory.points(RETRIES)) == 2 * WORKERS


@pytest.mark.parametrize("send", RETRYING)
def test_what_the_app_asks_after_a_client_has_given_up_is_a_first(api, memory, send):
    api.answers("internal_error", times=6)

    send("GET", api.url + "/models", 2)

    assert len(api.requests) == 6
    assert sum(point["value"] for point in memory.points(RETRIES)) == 4
    if send is not retrying_requests:  # which has one span for all
        assert numbers(memory) == [0, 1, 2, 0, 1, 2]


def test_the_methods_of_retry_libraries_are_the_very_same_after_shutdown(telemetry):
    methods = [
        (httpx_retries.RetryTransport, "handle_request"),
        (httpx_retries.RetryTransport, "handle_async_request"),
        (aiohttp_retry.client._RequestContext, "_do_request"),
    ]
    on = [vars(owner)[name] for owner, name in methods]
    told = telemetry.status().clients
    telemetry.shutdown()
    off = [vars(owner)[name] for owner, name in methods]

    assert all(one.__wrapped__ is other for one, other in zip(on, off, strict=True))
    assert not any(hasattr(one, "__wrapped__") for one in off)
    assert not [one for one in told if "retr" in one.name], "they are no clients"


# -- requests that say too little ------------------------------------------------------------------


def asked_by(anyone, url, keys, method="GET", **headers):
    """Send one request with each of the keys."""
    for key in keys:
        own = headers if key is None else {"Authorization": f"Bearer {key}", **headers}
        anyone.send(method, url, headers=own)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_request_that_says_nothing_is_a_first(api, memory, anyone, method):
    """A server thread asks for one user after the other."""
    api.answers("internal_error", times=3)

    asked_by(anyone, api.url + "/wallet/balance", ("ask_a", "ask_a", "ask_b"), method)

    assert numbers(memory) == [0, 0, 0]
    assert memory.points(RETRIES) == []


def test_a_request_that_says_nothing_is_a_first_in_one_session_of_aiohttp(api, memory):
    api.answers("internal_error", times=3)

    async def main():
        async with aiohttp.ClientSession() as session:
            for key in ("ask_a", "ask_a", "ask_b"):
                headers = {"Authorization": f"Bearer {key}"}
                async with session.get(api.url + "/wallet/balance", headers=headers):
                    pass

    asyncio.run(main())

    assert numbers(memory) == [0, 0, 0]


@pytest.mark.parametrize("anyone", [one for one in ANYONE if one.run is None], ids=str)
def test_an_idempotency_key_says_enough(api, memory, anyone):
    """Those that are not async send each request in one flow of control."""
    api.answers("internal_error")

    asked_by(anyone, api.url + "/models", (None, None), **{"Idempotency-Key": "charge-17"})

    assert numbers(memory) == [0, 1]


class Here(NamedTuple):
    """A client that is used by one flow of control."""

    at: Any
    url: str

    async def ask(self, key, path="/wallet/balance"):
        headers = {"Authorization": f"Bearer {key}"}
        return await self.at.request("GET", self.url + path, headers=headers)


def used(caller, api, script):
    async def whole(at):
        await script(Here(at, api.url))

    caller.use(caller.client(), whole)


def test_under_the_same_span_with_the_same_key_it_is_a_resend(api, memory, parent, caller):
    api.answers("internal_error", "model_overloaded")

    async def script(here):
        for _ in range(3):
            await here.ask("ask_a")

    with parent():
        used(caller, api, script)

    assert numbers(memory) == [0, 1, 2]


@pytest.mark.parametrize("code", ["internal_error", "invalid_api_key"])
def test_under_the_same_span_with_another_key_it_is_a_first(api, memory, parent, caller, code):
    api.answers(code, times=3)

    async def script(here):
        for key in ("ask_a", "ask_b", "ask_c"):
            await here.ask(key)

    with parent():
        used(caller, api, script)

    assert numbers(memory) == [0, 0, 0]


def test_under_another_span_of_the_same_trace_it_is_a_first(api, memory, parent, caller):
    api.answers("internal_error")

    async def script(here):
        for _ in range(2):
            with parent():
                await here.ask("ask_a")

    with parent():
        used(caller, api, script)

    assert numbers(memory) == [0, 0]


CALLER = [caller for caller in CALLERS if caller.name == "httpx-asyncio"]


@pytest.mark.parametrize("caller", CALLER, ids=str)
@pytest.mark.parametrize(
    "answers", [("internal_error", "ok"), ("internal_error", "internal_error")]
)
def test_a_success_in_between_makes_a_first(api, memory, parent, caller, answers):
    """Of the same request under the same span, by another task."""
    api.answers(*answers)

    async def script(here):
        has_failed, is_answered = asyncio.Event(), asyncio.Event()

        async def loop():
            await here.ask("ask_a")
            has_failed.set()
            await is_answered.wait()
            await here.ask("ask_a")

        async def other():
            await has_failed.wait()
            await here.ask("ask_a")
            is_answered.set()

        await asyncio.gather(loop(), other())

    with parent():
        used(caller, api, script)

    assert numbers(memory) == ([0, 0, 0] if "ok" in answers else [0, 0, 1])


@pytest.mark.parametrize("caller", CALLER, ids=str)
@pytest.mark.parametrize("keys", [("ask_a", "ask_a"), ("ask_a", "ask_b")])
def test_a_task_each_under_one_span_is_asked_for_its_key_too(api, memory, parent, caller, keys):
    api.answers("internal_error")

    async def script(here):
        for key in keys:
            await asyncio.create_task(here.ask(key))

    with parent():
        used(caller, api, script)

    assert numbers(memory) == [0, int(len(set(keys)) == 1)]


def test_a_list_that_an_sdk_asks_for_again_is_a_resend_under_a_span_alone(api, memory, around):
    api.answers("invalid_api_key", times=2)
    with around() as span, openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        for _ in range(2):
            with pytest.raises(openai.AuthenticationError):
                client.models.list()

    assert numbers(memory) == [0, int(span is not None)]
    told = [one.attributes.get("assisters.call.resend_count") for one in memory.calls()]
    assert told == [None, 1 if span is not None else None]


# -- another key -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "is_same"),
    [(("ask_a", "ask_a"), True), (("ask_a", "ask_b"), False), ((None, None), True)],
    ids=str,
)
@pytest.mark.parametrize(
    ("answer", "mark"), [("rate_limit_exceeded", "early"), ("tokens_exhausted", "futile")]
)
def test_a_resend_is_early_or_futile_with_the_same_key_alone(
    api, memory, answer, mark, keys, is_same
):
    api.answers(answer, retry_after=30)
    with httpx.Client(verify=TLS) as client:
        for key in keys:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            client.post(api.url + "/embeddings", json=BODY, headers=headers)

    assert numbers(memory) == [0, 1]
    assert memory.attempts()[1].attributes[f"assisters.retry.{mark}"] is is_same
    assert memory.point(RETRIES)[f"assisters.retry.{mark}"] is is_same


# -- a connection of a loop that is gone -----------------------------------------------------------


async def once_by_httpx(client, url):
    await client.post(url, json=BODY)


async def once_by_aiohttp(session, url):
    async with session.post(url, json=BODY) as response:
        await response.read()


async def session_without_timer():
    """Whose timer would meet the dead loop before there is an attempt."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))


def client_of(module):
    async def make():
        return module.AsyncClient(verify=TLS)

    return make


POOLED = {
    "httpx": (client_of(httpx), once_by_httpx),
    "httpx2": (client_of(httpx2), once_by_httpx),
    "aiohttp": (session_without_timer, once_by_aiohttp),
}


def sent_by_two_loops(make, send, url):
    """As a server does that calls `asyncio.run` for each request, with one client for all."""
    held = []

    async def main():
        if not held:
            held.append(await make())
        await send(held[0], url)

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        asyncio.run(main())


# What a client leaves of a connection that it cannot close any more, with us and without.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("client", POOLED)
def test_a_connection_of_a_dead_event_loop_is_connection_trouble(api, memory, client):
    sent_by_two_loops(*POOLED[client], api.url + "/embeddings")
    gc.collect()

    span = memory.attempts()[1]
    assert span.attributes["error.type"] == "RuntimeError"
    assert span.attributes["assisters.error.retryable"] is True
    assert memory.point("assisters.client.errors")["assisters.error.retryable"] is True


def test_another_runtime_error_is_no_connection_trouble(api, memory):
    def hook(_name, _info):
        raise RuntimeError("of the app's own")

    with httpx.Client(verify=TLS) as client, pytest.raises(RuntimeError):
        client.post(api.url + "/embeddings", json=BODY, extensions={"trace": hook})

    assert memory.attempt().attributes["assisters.error.retryable"] is False
