"""Resends, recognised without the app's help, in every loop that people write."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import anyio
import anyio.to_thread
import httpx
import httpx2
import openai
import pytest
import stamina
import tenacity
from httpx_retries import Retry, RetryTransport
from opentelemetry import context, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import assisters_otel
from memory import Memory

pytestmark = pytest.mark.usefixtures("telemetry")

RETRIES = "assisters.client.retries"
COUNT = "http.request.resend_count"
BODY = {"model": "assisters-embed-v1", "input": "hello"}


@pytest.fixture
def parent(memory):
    tracer = memory.tracer_provider.get_tracer("app")
    return lambda: tracer.start_as_current_span("work")


@pytest.fixture
def url(api):
    return api.url + "/embeddings"


@pytest.fixture(autouse=True)
def _quick_stamina():
    with stamina.set_testing(True, attempts=5, cap=True):
        yield


def numbers(memory):
    """Each attempt's number as a resend, 0 for a first, in the order in which they ended."""
    return [span.attributes.get(COUNT, 0) for span in memory.attempts()]


def retries(memory):
    return sum(point["value"] for point in memory.points(RETRIES))


def sync_client(**options):
    return httpx.Client(trust_env=False, **options)


def async_client(**options):
    return httpx.AsyncClient(trust_env=False, **options)


# -- what stands on a resend --------------------------------------------------------------------


def test_a_loop_s_resends_say_what_they_are(api, memory, caller, url):
    api.answers("rate_limit_exceeded", retry_after=30)
    api.answers("api_key_revoked", "ok")

    async def script(at):
        for _ in range(3):
            await at.request("POST", url, json=BODY, headers={"authorization": "Bearer ask_k"})

    caller.use(caller.client(), script)

    first, second, third = memory.attempts()
    assert not [name for name in first.attributes if "retry." in name or name == COUNT]
    assert not first.links
    told = second.attributes
    assert told[COUNT] == 1
    assert told["assisters.retry.reason"] == "rate_limit_exceeded"
    assert told["assisters.retry.early"] is True
    assert told["assisters.retry.futile"] is False
    # To what is sent, which on a busy machine is well after the span's beginning. The value itself:
    # test_durations.py
    assert 0 <= told["assisters.retry.delay"] <= (second.end_time - first.start_time) / 1e9
    assert [link.context for link in second.links] == [first.context]
    told = third.attributes
    assert told[COUNT] == 2
    assert told["assisters.retry.reason"] == "api_key_revoked"
    assert told["assisters.retry.futile"] is True
    assert "assisters.retry.early" not in told
    assert [link.context for link in third.links] == [second.context]

    early, futile = memory.points(RETRIES)
    shared = {"url.template": "/v1/embeddings", "server.address": "127.0.0.1"}
    assert early.items() >= (shared | {"assisters.retry.early": True, "value": 1}).items()
    assert early["assisters.retry.reason"] == "rate_limit_exceeded"
    assert futile.items() >= (shared | {"assisters.retry.futile": True, "value": 1}).items()
    (exemplar,) = futile["exemplars"]
    assert exemplar.span_id == third.context.span_id


def test_a_retry_after_that_is_kept_is_not_early(api, memory, url):
    api.answers("rate_limit_exceeded", retry_after=0.05)
    with sync_client() as client:
        client.post(url, json=BODY)
        time.sleep(0.06)
        client.post(url, json=BODY)

    assert memory.attempts()[1].attributes["assisters.retry.early"] is False


def test_another_key_is_not_futile(api, memory, url):
    api.answers("api_key_revoked")
    with sync_client() as client:
        for key in ("ask_old", "ask_new"):
            client.post(url, json=BODY, headers={"authorization": f"Bearer {key}"})

    assert memory.attempts()[1].attributes["assisters.retry.futile"] is False


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": 503, "body": "busy", "content_type": "text/plain"}, "503"),
        ({"status": 500, "json": {"error": {"type": "server_error"}}}, "server_error"),
        ({"status": 400, "code": "never_heard_of"}, "never_heard_of"),
        ({"fault": "drop"}, "RemoteProtocolError"),
    ],
)
def test_the_reason_is_code_else_type_else_status_else_exception(
    api, memory, caller, url, answer, reason
):
    api.answers(**answer)

    async def script(at):
        with contextlib.suppress(httpx.TransportError, httpx2.TransportError):
            await at.request("POST", url, json=BODY)
        await at.request("POST", url, json=BODY)

    caller.use(caller.client(), script)

    assert memory.attempts()[1].attributes["assisters.retry.reason"] == reason
    assert memory.point(RETRIES)["assisters.retry.reason"] == reason


def test_a_reason_that_is_no_label_is_other(api, memory, url):
    api.answers(status=400, code="Not a Label")
    with sync_client() as client:
        client.post(url, json=BODY)
        client.post(url, json=BODY)

    assert memory.attempts()[1].attributes["assisters.retry.reason"] == "Not a Label"
    assert memory.point(RETRIES)["assisters.retry.reason"] == "_OTHER"


# -- every loop that people write ---------------------------------------------------------------


def raise_for_status(response):
    response.raise_for_status()
    return response


def tenacity_sync(url):
    with sync_client() as client:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.01), reraise=True
        )
        def ask():
            return raise_for_status(client.post(url, json=BODY))

        ask()


def tenacity_async(url):
    async def main():
        async with async_client() as client:
            async for attempt in tenacity.AsyncRetrying(wait=tenacity.wait_fixed(0.01)):
                with attempt:
                    raise_for_status(await client.post(url, json=BODY))

    asyncio.run(main())


def stamina_sync(url):
    with sync_client() as client:

        @stamina.retry(on=httpx.HTTPStatusError)
        def ask():
            return raise_for_status(client.post(url, json=BODY))

        ask()


def stamina_async(url):
    async def main():
        async with async_client() as client:
            async for attempt in stamina.retry_context(on=httpx.HTTPStatusError):
                with attempt:
                    raise_for_status(await client.post(url, json=BODY))

    asyncio.run(main())


def retry_policy():
    statuses = [500, 503]
    return Retry(total=3, backoff_factor=0.01, allowed_methods=["POST"], status_forcelist=statuses)


def httpx_retries_sync(url):
    with sync_client(transport=RetryTransport(retry=retry_policy())) as client:
        client.post(url, json=BODY)


def httpx_retries_async(url):
    async def main():
        async with async_client(transport=RetryTransport(retry=retry_policy())) as client:
            await client.post(url, json=BODY)

    asyncio.run(main())


def a_thread(url):
    def loop():
        with sync_client() as client:
            while client.post(url, json=BODY).is_error:
                pass

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()


def task_group(url):
    async def loop():
        async with async_client() as client:
            for wait_s in (0.01, 0.01, 0):
                await client.post(url, json=BODY)
                await anyio.sleep(wait_s)

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(loop)

    return main


def task_group_asyncio(url):
    anyio.run(task_group(url), backend="asyncio")


def task_group_trio(url):
    anyio.run(task_group(url), backend="trio")


def sync_in_a_task(url):
    async def main():
        a_loop(url)

    asyncio.run(main())


def a_loop(url):
    with sync_client() as client:
        while client.post(url, json=BODY).is_error:
            pass


def a_client_each(url):
    while httpx.post(url, json=BODY, trust_env=False).is_error:
        pass


LOOPS = [
    a_loop,
    a_client_each,
    tenacity_sync,
    tenacity_async,
    stamina_sync,
    stamina_async,
    httpx_retries_sync,
    httpx_retries_async,
    a_thread,
    task_group_asyncio,
    task_group_trio,
    sync_in_a_task,
]


@pytest.mark.parametrize("under", ["a span", "no span"])
@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_is_recognised(api, memory, parent, url, loop, under):
    api.answers("internal_error", "model_overloaded", "ok")

    with parent() if under == "a span" else contextlib.nullcontext():
        loop(url)

    assert numbers(memory) == [0, 1, 2]
    first, second, third = memory.attempts()
    assert second.attributes["assisters.retry.reason"] == "internal_error"
    assert third.attributes["assisters.retry.reason"] == "model_overloaded"
    assert [link.context for span in (second, third) for link in span.links] == [
        first.context,
        second.context,
    ]
    assert retries(memory) == 2


def waited_for(url):
    """Before Python 3.12 a task of its own for each attempt."""

    async def main():
        async with async_client() as client:
            for _ in range(3):
                await asyncio.wait_for(client.post(url, json=BODY), 5)

    asyncio.run(main())


def a_task_each(url):
    async def main():
        async with async_client() as client:
            for _ in range(3):
                await asyncio.create_task(client.post(url, json=BODY))

    asyncio.run(main())


def in_threads(url):
    async def main():
        with sync_client() as client:
            kept = []  # as tenacity keeps its last: an exception, and with it the frames

            def ask():
                try:
                    raise_for_status(client.post(url, json=BODY))
                except httpx.HTTPStatusError as error:
                    kept.append(error)
                    raise

            for _ in range(3):
                with contextlib.suppress(httpx.HTTPStatusError):
                    await asyncio.to_thread(ask)

    asyncio.run(main())


def in_threads_of_anyio(backend):
    def loop(url):
        async def main():
            with sync_client() as client:
                for _ in range(3):
                    await anyio.to_thread.run_sync(lambda: client.post(url, json=BODY))

        anyio.run(main, backend=backend)

    return loop


def a_thread_each(url):
    with sync_client() as client:
        for _ in range(3):
            around = context.get_current()

            def ask(around=around):
                context.attach(around)
                client.post(url, json=BODY)

            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()


def a_nursery_each(backend):
    def loop(url):
        async def main():
            async with async_client() as client:
                for _ in range(3):
                    async with anyio.create_task_group() as group:
                        group.start_soon(lambda: client.post(url, json=BODY))

        anyio.run(main, backend=backend)

    return loop


APART = {
    "wait_for": waited_for,
    "create_task": a_task_each,
    "to_thread": in_threads,
    "anyio.to_thread on asyncio": in_threads_of_anyio("asyncio"),
    "anyio.to_thread on trio": in_threads_of_anyio("trio"),
    "threads": a_thread_each,
    "task groups on asyncio": a_nursery_each("asyncio"),
    "task groups on trio": a_nursery_each("trio"),
}


@pytest.mark.parametrize("loop", APART)
def test_a_task_or_thread_for_each_attempt_is_recognised_under_one_span(
    api, memory, parent, url, loop
):
    api.answers("internal_error", "model_overloaded", "ok")

    with parent():
        APART[loop](url)

    assert numbers(memory) == [0, 1, 2]
    assert retries(memory) == 2


@pytest.mark.parametrize("turns", [(0, 1, 2), (0, 1, 0)], ids=str)
def test_a_thread_of_the_pool_that_has_nothing_to_do_is_over(api, memory, parent, url, turns):
    """Each attempt in another of the pool's threads than the last, all of which live on."""
    api.answers("internal_error", "model_overloaded", "ok")
    pools = [ThreadPoolExecutor(1) for _ in range(3)]
    with parent(), sync_client() as client:
        around = context.get_current()

        def ask():
            token = context.attach(around)
            client.post(url, json=BODY)
            context.detach(token)

        for turn in turns:
            pools[turn].submit(ask).result()
            time.sleep(0.05)
    for pool in pools:
        pool.shutdown()

    assert numbers(memory) == [0, 1, 2]


def test_an_attempt_that_was_cancelled_is_sent_again(api, memory, url):
    api.answers(delay_s=5)

    async def main():
        async with async_client() as client:
            with anyio.move_on_after(0.2):
                await client.post(url, json=BODY)
            await client.post(url, json=BODY)

    asyncio.run(main())

    _, again = memory.attempts()
    assert again.attributes["assisters.retry.reason"] == "CancelledError"
    assert again.attributes["assisters.retry.futile"] is False
    assert memory.point(RETRIES)["assisters.retry.reason"] == "CancelledError"


@pytest.mark.parametrize("backend", ["asyncio", "trio", "no loop"])
def test_a_trio_older_than_0_29_hides_no_resend(api, memory, url, backend, monkeypatch):
    """It cannot say whether one of its tasks is running, and is only imported by most."""
    monkeypatch.delattr("trio.lowlevel.in_trio_task", raising=False)
    api.answers("rate_limit_exceeded", retry_after=0)

    async def main():
        async with async_client() as client:
            for _ in range(2):
                await client.post(url, json=BODY)

    if backend == "no loop":
        with sync_client() as client:
            for _ in range(2):
                client.post(url, json=BODY)
    else:
        anyio.run(main, backend=backend)

    assert numbers(memory) == [0, 1]


# -- many at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("under", ["a span", "no span"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_fifty_tasks_are_fifty_firsts(api, memory, parent, url, backend, under):
    api.answers("rate_limit_exceeded", retry_after=0, times=50)

    async def main():
        async with async_client() as client:

            async def task():
                await client.post(url, json=BODY)
                await anyio.sleep(0.3)
                await client.post(url, json=BODY)

            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(task)

    with parent() if under == "a span" else contextlib.nullcontext():
        anyio.run(main, backend=backend)

    assert sorted(numbers(memory)) == [0] * 50 + [1] * 50
    assert retries(memory) == 50


@pytest.mark.parametrize("under", ["a span", "no span"])
@pytest.mark.parametrize("start_s", [0.0, 0.02])
def test_twenty_threads_are_twenty_firsts(api, memory, parent, url, start_s, under):
    api.answers("rate_limit_exceeded", retry_after=0, times=20)
    all_have_failed = threading.Barrier(20)

    def work(client, around):
        token = context.attach(around)
        while client.post(url, json=BODY).is_error:
            all_have_failed.wait(60)
        context.detach(token)

    with (
        parent() if under == "a span" else contextlib.nullcontext(),
        sync_client() as client,
        ThreadPoolExecutor(20) as pool,
    ):
        around = context.get_current()
        working = []
        for _ in range(20):
            working.append(pool.submit(work, client, around))
            time.sleep(start_s)
        for one in working:
            one.result()

    assert sorted(numbers(memory)) == [0] * 20 + [1] * 20
    assert retries(memory) == 20


def test_a_fan_out_that_gives_up_has_a_handful_of_wrong_marks_at_most(api, memory, parent, url):
    """Equal requests under one span, a task each, eight at a time, none of them sent again."""
    api.answers("api_key_revoked", times=50)

    async def main():
        at_once = asyncio.Semaphore(8)
        async with async_client() as client:

            async def task():
                async with at_once:
                    await client.post(url, json=BODY)

            await asyncio.gather(*(task() for _ in range(50)))

    with parent():
        asyncio.run(main())

    assert len(memory.attempts()) == 50
    assert retries(memory) <= 5


@pytest.mark.parametrize("every_s", [0.0, 0.02])
@pytest.mark.parametrize("at_once", [2, 3, 50])
def test_a_fan_out_that_is_throttled_or_staggered_has_a_handful_of_wrong_marks_at_most(
    api, memory, parent, url, at_once, every_s
):
    """An attempt that took another one's place hid that a third was on its way beside it."""
    for delay_s in (0.03, 0.06, *(0.05, 0.06, 0.04) * 9):
        api.answers("rate_limit_exceeded", delay_s=delay_s)

    async def main():
        turn = asyncio.Semaphore(at_once)
        async with async_client() as client:

            async def task(number):
                await asyncio.sleep(number * every_s)
                async with turn:
                    await client.post(url, json=BODY)

            await asyncio.gather(*map(task, range(29)))

    with parent():
        asyncio.run(main())

    assert len(memory.attempts()) == 29
    assert retries(memory) <= 5


@pytest.mark.parametrize("at_once", [3, 10])
def test_a_fan_out_of_calls_that_are_retried_and_give_up_has_no_wrong_mark(
    api, memory, parent, monkeypatch, at_once
):
    """A call's retry took the sign away that the others had failed beside it."""
    api.answers("internal_error", times=90)
    monkeypatch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_, **__: 0.02)

    async def main():
        turn = asyncio.Semaphore(at_once)
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:

            async def task():
                async with turn:
                    with contextlib.suppress(openai.InternalServerError):
                        await client.embeddings.create(**BODY)

            await asyncio.gather(*(task() for _ in range(30)))

    with parent():
        asyncio.run(main())

    assert sorted(numbers(memory)) == [0] * 30 + [1] * 30 + [2] * 30
    assert not [s for s in memory.spans() if "assisters.call.resend_count" in s.attributes]


# -- what is a first ----------------------------------------------------------------------------


def test_a_different_body_is_a_first(api, memory, url):
    api.answers("internal_error")
    with sync_client() as client:
        client.post(url, json=BODY)
        client.post(url, json=BODY | {"input": "other"})
        client.post(url, json=BODY)

    assert numbers(memory) == [0, 0, 1]


def test_another_url_or_method_is_a_first(api, memory):
    api.answers("internal_error", times=4)
    with sync_client() as client:
        client.get(api.url + "/models")
        client.get(api.url + "/models?after=1")
        client.get(api.url + "/rate-limit")
        client.post(api.url + "/models")

    assert numbers(memory) == [0, 0, 0, 0]


def test_a_success_in_between_makes_a_first(api, memory, url):
    api.answers("internal_error", "ok", "internal_error", "ok")
    with sync_client() as client:
        for _ in range(5):
            client.post(url, json=BODY)

    assert numbers(memory) == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("under", ["a span", "no span"])
def test_another_flow_of_control_is_a_first(api, memory, parent, url, under):
    """A thread that is started while the first, which failed, goes on with something else."""
    api.answers("internal_error")
    with (
        parent() if under == "a span" else contextlib.nullcontext(),
        sync_client() as client,
    ):
        client.post(url, json=BODY)
        around = context.get_current()

        def ask():
            context.attach(around)
            client.post(url, json=BODY)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    assert numbers(memory) == [0, 0]


def test_a_task_beside_one_that_waits_is_a_first(api, memory, parent, url):
    api.answers("internal_error")

    async def main():
        async with async_client() as client:

            async def loop():
                await client.post(url, json=BODY)
                await asyncio.sleep(0.3)
                await client.post(url, json=BODY)

            first = asyncio.create_task(loop())
            await asyncio.sleep(0.15)
            await asyncio.create_task(client.post(url, json=BODY))
            await first

    with parent():
        asyncio.run(main())

    assert numbers(memory) == [0, 0, 1]


@pytest.mark.parametrize("by", ["us", "the app"])
def test_two_users_of_one_thread_are_strangers(api, memory, parent, url, by):
    api.answers("api_key_revoked")
    instrumentor = HTTPXClientInstrumentor()
    if by == "the app":
        instrumentor.instrument(tracer_provider=memory.tracer_provider)
    try:
        with sync_client() as client, ThreadPoolExecutor(1) as pool:
            for _ in range(2):
                with parent():
                    around = context.get_current()

                def serve(around=around):
                    token = context.attach(around)
                    client.post(url, json=BODY)
                    context.detach(token)

                pool.submit(serve).result()
    finally:
        if by == "the app":
            instrumentor.uninstrument()

    gave_up, other = memory.attempts()
    assert COUNT not in other.attributes
    assert not other.links
    assert gave_up.context.trace_id != other.context.trace_id
    assert memory.points(RETRIES) == []


# -- bodies that cannot be read again -----------------------------------------------------------


def parts():
    yield b'{"input": '
    yield b'"hello"}'


def sends(api, **options):
    with sync_client() as client:
        for _ in range(2):
            made = {name: value() for name, value in options.items()}
            client.post(api.url + "/audio/transcriptions", **made)


def multipart():
    return {"file": ("a.mp3", b"audio")}


@pytest.mark.parametrize("body", [{"files": multipart}, {"content": parts}])
def test_a_body_that_cannot_be_read_again_is_not_touched(api, memory, body):
    api.answers("internal_error")

    sends(api, **body)

    first, second = (request.body for request in api.requests)
    assert len(first) == len(second) > 0
    assert numbers(memory) == [0, 0]


@pytest.mark.parametrize("body", [{"files": multipart}, {"content": parts}])
def test_an_idempotency_key_names_the_request(api, memory, body):
    api.answers("internal_error")

    sends(api, headers=lambda: {"Idempotency-Key": "charge-17"}, **body)

    assert numbers(memory) == [0, 1]


def test_another_idempotency_key_is_another_request(api, memory, url):
    api.answers("internal_error")
    with sync_client() as client:
        for key in ("one", "two"):
            client.post(url, json=BODY, headers={"Idempotency-Key": key})

    assert numbers(memory) == [0, 0]


def test_an_async_generator_is_not_touched(api, memory, url):
    api.answers("internal_error")

    async def main():
        async def content():
            for part in parts():
                yield part

        async with async_client() as client:
            for _ in range(2):
                await client.post(url, content=content())

    asyncio.run(main())

    assert [request.body for request in api.requests] == [b'{"input": "hello"}'] * 2
    assert numbers(memory) == [0, 0]


# -- what an SDK says ---------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "number"), [("2", 2), ("0", None), ("-1", None), ("²", None)])
def test_a_header_says_which_resend_it_is(memory, url, said, number):
    with sync_client() as client:
        client.post(url, json=BODY, headers=[(b"X-Stainless-Retry-Count", said.encode())])

    told = memory.attempt().attributes
    assert told.get(COUNT) == number
    assert "assisters.retry.reason" not in told
    assert retries(memory) == (number is not None)


def test_a_header_that_says_less_than_was_seen_is_not_believed(api, memory, url):
    api.answers("internal_error", times=2)
    with sync_client() as client:
        for said in "010":
            client.post(url, json=BODY, headers={"x-stainless-retry-count": said})

    assert numbers(memory) == [0, 1, 2]


# -- redirects and authentication ---------------------------------------------------------------


def test_a_redirect_s_hop_counts_on_and_is_no_retry(api, memory, caller, url):
    api.answers(redirect=api.url + "/models")

    async def script(at):
        await at.request("POST", url, json=BODY)

    caller.use(caller.client(follow_redirects=True), script)

    _, hop = memory.attempts()
    assert hop.name == "POST /v1/models"
    assert hop.attributes[COUNT] == 1
    assert not [name for name in hop.attributes if name.startswith("assisters.retry.")]
    assert not hop.links
    assert memory.points(RETRIES) == []


def test_a_redirect_that_nobody_follows_is_no_hop(api, memory, url):
    api.answers(redirect=api.url + "/models")
    with sync_client() as client:
        client.post(url, json=BODY)
        client.get(api.url + "/rate-limit")
        client.get(api.url + "/models")

    assert numbers(memory) == [0, 0, 0]


def test_what_is_sent_again_after_a_failed_hop_is_a_retry(api, memory, url):
    api.answers(status=307, redirect=api.url + "/rerank")
    api.answers("internal_error")
    api.answers(status=307, redirect=api.url + "/rerank")
    with sync_client(follow_redirects=True) as client:
        client.post(url, json=BODY)
        client.post(url, json=BODY)

    assert numbers(memory) == [0, 1, 2, 3]
    _, failed, again, hop = memory.attempts()
    assert again.attributes["assisters.retry.reason"] == "internal_error"
    assert [link.context for link in again.links] == [failed.context]
    assert "assisters.retry.reason" not in hop.attributes
    assert retries(memory) == 1


@pytest.mark.parametrize("location", ["http://[::1", "http://a:b/", "\x7f"])
def test_a_location_that_is_no_url_is_the_client_s_to_complain_of(api, memory, url, location):
    api.answers(status=302, headers={"location": location})
    with sync_client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(url, json=BODY)

    assert memory.attempt().attributes["http.response.status_code"] == 302


def test_an_auth_flow_s_second_request_is_a_retry(api, memory, caller, url):
    class Renewing(caller.module.Auth):
        def auth_flow(self, request):
            request.headers["authorization"] = "Bearer ask_old"
            response = yield request
            if response.status_code == 401:
                request.headers["authorization"] = "Bearer ask_new"
                yield request

    api.answers("invalid_api_key", "ok")

    caller.send("POST", url, client=caller.client(auth=Renewing()), json=BODY)

    _, again = memory.attempts()
    assert again.attributes[COUNT] == 1
    assert again.attributes["assisters.retry.reason"] == "invalid_api_key"
    assert again.attributes["assisters.retry.futile"] is False
    assert retries(memory) == 1


# -- without a span -----------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["us", "the app"])
def test_retries_are_counted_where_nothing_is_sampled(api, telemetry, url, by):
    telemetry.shutdown()
    memory = Memory(sampler=ALWAYS_OFF)
    providers = {
        "tracer_provider": memory.tracer_provider,
        "meter_provider": memory.meter_provider,
    }
    instrumentor = HTTPXClientInstrumentor()
    if by == "the app":
        instrumentor.instrument(**providers)
    api.answers("internal_error", "model_overloaded")
    try:
        with (
            assisters_otel.init(hosts=[api.url], strict=True, **providers),
            sync_client() as client,
        ):
            for _ in range(3):
                client.post(url, json=BODY)
    finally:
        if by == "the app":
            instrumentor.uninstrument()

    assert memory.spans() == []
    assert retries(memory) == 2
    memory.shutdown()


def test_strangers_are_strangers_where_nothing_is_sampled(api, telemetry, url):
    telemetry.shutdown()
    memory = Memory(sampler=ALWAYS_OFF)
    api.answers("api_key_revoked")
    tracer = memory.tracer_provider.get_tracer("app")
    with (
        assisters_otel.init(
            hosts=[api.url],
            strict=True,
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ),
        sync_client() as client,
    ):
        for _ in range(2):
            with tracer.start_as_current_span("work"):
                client.post(url, json=BODY)

    assert memory.points(RETRIES) == []
    memory.shutdown()


def test_nothing_of_the_app_s_context_is_left_changed(api, memory, caller, url):
    api.answers("internal_error")
    before = context.get_current()

    async def script(at):
        inside = context.get_current()
        for _ in range(2):
            await at.request("POST", url, json=BODY)
        assert context.get_current() == inside
        assert trace.get_current_span() is trace.INVALID_SPAN

    caller.use(caller.client(), script)

    assert context.get_current() == before
    assert numbers(memory) == [0, 1]


# -- what a stream's failure is known by ----------------------------------------------------------

STREAMED = {"model": "assisters-chat-v1", "stream": True, "messages": []}


async def _read_by_aiohttp(api):
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(f"{api.url}/chat/completions", json=STREAMED) as response:
                    async for _ in response.content:
                        pass


async def _read_by_openai(api, read):
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        for _ in range(2):
            with contextlib.suppress(openai.APIError):
                await read(await client.chat.completions.create(**STREAMED))


async def _all_of(stream):
    async for _ in stream:
        pass


async def _in_a_task_of_its_own(stream):
    await asyncio.create_task(_all_of(stream))


async def _by_openai_over_aiohttp(api):
    client = openai.AsyncOpenAI(
        base_url=api.url, api_key="ask_k", max_retries=0, http_client=openai.DefaultAioHttpClient()
    )
    async with client:
        for _ in range(2):
            with contextlib.suppress(openai.APIError):
                await _all_of(await client.chat.completions.create(**STREAMED))


@pytest.mark.parametrize(
    "send",
    [
        _read_by_aiohttp,
        _by_openai_over_aiohttp,
        lambda api: _read_by_openai(api, _all_of),
        lambda api: _read_by_openai(api, _in_a_task_of_its_own),
    ],
    ids=["aiohttp", "openai over aiohttp", "openai", "openai, read in another task"],
)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"fault": "truncate"}, None),
        ({"fault": "unfinished", "chunk_delay_s": 0.02}, "truncated"),
        ({"in_stream": "internal_error", "chunk_delay_s": 0.02}, "internal_error"),
    ],
    ids=["broken off", "without [DONE]", "an error event"],
)
@pytest.mark.parametrize("under", ["a span", "no span"])
def test_a_stream_s_failure_is_the_sender_s_wherever_it_is_met(
    api, memory, parent, send, answer, reason, under
):
    api.answers(**answer)
    with parent() if under == "a span" else contextlib.nullcontext():
        asyncio.run(send(api))

    assert numbers(memory) == [0, 1]
    said = memory.attempts()[1].attributes["assisters.retry.reason"]
    assert reason is None or said == reason


def test_who_reads_a_failing_stream_and_sends_for_the_first_time_is_a_stranger(api, memory):
    api.answers(in_stream="internal_error")
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        stream = client.chat.completions.create(**STREAMED)
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(openai.APIError):
                pool.submit(list, stream).result()
            pool.submit(lambda: list(client.chat.completions.create(**STREAMED))).result()

    assert numbers(memory) == [0, 0]


@pytest.mark.parametrize("over", ["httpx", "aiohttp"])
def test_a_call_that_was_cancelled_in_its_body_is_sent_again(api, memory, over):
    async def main():
        own = openai.DefaultAioHttpClient() if over == "aiohttp" else None
        async with openai.AsyncOpenAI(
            base_url=api.url, api_key="ask_k", max_retries=0, http_client=own
        ) as client:

            async def call():
                await client.chat.completions.create(model="assisters-chat-v1", messages=[])

            task = asyncio.ensure_future(call())
            while not api.requests:  # noqa: ASYNC110 - a server in another thread sets no event
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)  # it is in the body now
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(call(), 60)

    api.answers(fault="stall")
    with memory.tracer_provider.get_tracer("app").start_as_current_span("work"):
        asyncio.run(main())

    first, second = memory.calls()
    assert first.attributes["assisters.call.outcome"] == "cancelled"
    assert second.attributes["assisters.call.resend_count"] == 1
    assert memory.attempts()[1].attributes["assisters.retry.reason"] == "CancelledError"


def test_a_read_that_is_cancelled_and_goes_on_is_no_cancelled_answer(api, memory):
    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{api.url}/chat/completions", json=STREAMED) as response,
        ):
            for _ in range(2):
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(response.content.readany(), 0.02)
            await response.read()

    api.answers(chunk_delay_s=0.05)
    asyncio.run(main())
    asyncio.run(main())

    assert numbers(memory) == [0, 0]
    ended = [span.attributes.get("assisters.stream.outcome") for span in memory.spans()]
    assert ended.count("completed") == 2
