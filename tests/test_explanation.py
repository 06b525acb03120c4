"""What `explain` makes of what an app has in its hands."""

from __future__ import annotations

import asyncio
import gc
import socket
import traceback
import weakref
from unittest import mock

import aiohttp
import assisters
import httpx
import httpx2
import openai
import pydantic
import pytest
import requests
from multidict import CIMultiDict
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import assisters_otel
from assisters_otel import catalog, explain
from assisters_otel.api.request import CREDENTIALS
from assisters_otel.attempts.call import Call
from assisters_otel.explanation.explain import SIDES
from assisters_otel.sinks.known_attempts import _attempts_by_object_id, find_attempt
from assisters_otel.testing import FakeApi
from raw_server import RawServer

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "planted"}]}


@pytest.fixture(params=[True, False], ids=["watched", "unwatched"])
def watched(request):
    return request.param


@pytest.fixture
def server(watched, request):
    if watched:
        request.getfixturevalue("telemetry")
        yield request.getfixturevalue("api")
    else:
        with FakeApi() as other:
            yield other


OTHERS = (httpx.HTTPError, httpx2.HTTPError, requests.RequestException, aiohttp.ClientError)


def raised(call):
    try:
        call()
    except (openai.OpenAIError, assisters.AssistersAPIError, *OTHERS) as error:
        return error
    raise AssertionError("nothing was raised")


def of_openai(server, **options):
    with openai.OpenAI(base_url=server.url, api_key="ask_k", max_retries=0) as client:
        return client.chat.completions.create(**CHAT, **options)


def of_openai_async(server):
    async def whole():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="ask_k", max_retries=0) as c:
            await c.chat.completions.create(**CHAT)

    asyncio.run(whole())


def of_assisters(server):
    with assisters.Assisters("ask_k", base_url=server.url, max_retries=1) as client:
        client.chat.completions.create(**CHAT)


def of_httpx(server, module=httpx):
    module.post(f"{server.url}/chat/completions", json=CHAT).raise_for_status()


def of_httpx2(server):
    of_httpx(server, httpx2)


def of_requests(server):
    requests.post(f"{server.url}/chat/completions", json=CHAT, timeout=5).raise_for_status()


def of_aiohttp(server, **options):
    async def whole():
        async with (
            aiohttp.ClientSession(**options) as session,
            session.post(f"{server.url}/chat/completions", json=CHAT) as response,
        ):
            response.raise_for_status()

    asyncio.run(whole())


def of_aiohttp_session(server):
    of_aiohttp(server, raise_for_status=True)


CLIENTS = [
    of_openai,
    of_openai_async,
    of_assisters,
    of_httpx,
    of_httpx2,
    of_requests,
    of_aiohttp,
    of_aiohttp_session,
]
WITHOUT_BODY = {of_assisters, of_aiohttp, of_aiohttp_session}
"""Those whose exceptions have lost the answer's body. That of `assisters` has its type at least."""


@pytest.mark.parametrize("error", catalog.ERRORS, ids=lambda error: error.code)
def test_a_code_is_explained(error):
    told = explain(error.code)

    assert (told.code, told.status, told.type) == (error.code, error.status, error.type)
    assert told.retryable is error.retryable
    assert (told.advice, told.user_message) == (error.advice, error.user_message)
    assert told.side in SIDES
    assert error.code in told.ticket
    assert error.advice in str(told)


def test_an_unknown_code_is_explained_as_far_as_it_goes():
    told = explain("quota_frozen")

    assert (told.code, told.status) == ("quota_frozen", None)
    assert told.retryable is False
    assert told.user_message


@pytest.mark.parametrize("client", CLIENTS)
def test_an_exception_is_explained(server, watched, client):
    server.answers(
        "rate_limit_exceeded",
        message="planted ask_0123456789",
        param="model",
        retry_after=7,
        request_id="req_1",
    )

    error = raised(lambda: client(server))
    told = explain(error)

    is_lost = not watched and client in WITHOUT_BODY
    assert told.status == 429
    assert told.type == (None if is_lost and client is not of_assisters else "rate_limit_error")
    assert told.retryable is True
    if not is_lost:
        assert (told.code, told.param, told.request_id) == ("rate_limit_exceeded", "model", "req_1")
        assert told.retry_after_s == pytest.approx(7, abs=0.5)
        assert told.what == "The API answered 429 rate_limit_exceeded, about the parameter model."
        assert "req_1" in told.ticket
    assert (told.trace_id is not None) is watched
    assert "planted" not in str(told) + repr(told)


@pytest.mark.usefixtures("telemetry")
def test_a_trace_id_is_that_of_the_failed_attempt(api, memory):
    api.answers("internal_error")

    error = raised(lambda: of_assisters(api))

    assert explain(error).trace_id == f"{memory.call().context.trace_id:032x}"


@pytest.mark.parametrize("client", CLIENTS)
def test_no_answer_is_the_way_s_and_a_retry_can_help(server, client):
    server.stop()

    told = explain(raised(lambda: client(server)))

    assert told.status is None
    assert told.retryable is True
    assert told.side == "the way there"
    assert told.what.startswith("There was no answer: ")
    assert told.request_id is None


@pytest.mark.parametrize("module", [httpx, httpx2, requests])
def test_a_response_is_explained(server, module):
    server.answers("insufficient_funds", request_id="req_1")

    told = explain(module.get(f"{server.url}/models", timeout=5))

    assert (told.code, told.status, told.request_id) == ("insufficient_funds", 402, "req_1")
    assert told.side == "your account"
    assert told.retry_after_s is None


def test_a_success_is_nobody_s_fault(server):
    told = explain(httpx.get(f"{server.url}/models"))

    assert told.side == "nobody: it succeeded"
    assert told.status == 200


def test_an_unread_response_stays_unread(server):
    server.answers("internal_error")
    with httpx.stream("GET", f"{server.url}/models") as response:
        assert explain(response).status == 500
        assert not response.is_stream_consumed
        assert response.read()


def test_a_proxy_s_page_is_the_api_s_side(server):
    server.answers(status=502, body="<html>", content_type="text/html")

    told = explain(httpx.get(f"{server.url}/models"))

    assert (told.status, told.code, told.side) == (502, None, "the API")
    assert told.retryable is True


@pytest.mark.parametrize(
    ("answer", "side", "advice"),
    [
        ({"status": 404, "type": "invalid_request_error"}, "your app", "ends in /v1"),
        ({"status": 403, "body": "<html>"}, "your account", "what stands between"),
        ({"status": 402, "body": ""}, "your account", "what stands between"),
        ({"status": 400, "code": "brand_new"}, "your app", "the parameter if one is named"),
        (
            {"status": 400, "code": "brand_new", "type": "content_policy_error"},
            "the input",
            "the parameter if one is named",
        ),
        (
            {"status": 429, "code": "brand_new", "type": "tokens_exhausted_error"},
            "your account",
            "before the month turns",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_nobody_is_told_to_try_again_what_no_retry_helps(server, answer, side, advice):
    server.answers(**answer)

    told = explain(httpx.get(f"{server.url}/models"))

    assert told.retryable is False
    assert told.side == side
    assert advice in told.advice
    assert "below" not in told.advice, "it may be shown alone"
    assert "try again in a moment" not in told.user_message
    assert told.user_message


def test_a_code_that_is_new_and_no_retry_helps_has_its_type_s_message_for_users(server):
    server.answers(status=400, code="brand_new", type="content_policy_error")

    told = explain(httpx.get(f"{server.url}/models"))

    assert told.user_message == catalog.find("content_filtered").user_message


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ChunkedEncodingError("x"),
        aiohttp.ClientPayloadError("x"),
        httpx.RemoteProtocolError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_breaks_in_the_middle_of_a_body_is_not_said_to_be_no_answer_at_all(error):
    told = explain(error)

    assert told.what.startswith("There was no answer, or not a whole one: ")
    assert told.retryable is True


@pytest.mark.usefixtures("telemetry")
def test_a_stream_that_fails_is_explained(api, memory):
    def read():
        with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
            list(client.chat.completions.create(**CHAT, stream=True))

    api.answers(in_stream="model_overloaded", request_id="req_1")

    told = explain(raised(read))
    assert told.what == "The API answered 200, and its stream failed: model_overloaded."
    assert told.retryable is True
    assert told.request_id == "req_1"
    assert told.trace_id == f"{memory.call().context.trace_id:032x}"


@pytest.mark.usefixtures("server")
def test_a_mistake_before_sending_is_the_app_s():
    told = explain(raised(lambda: httpx.get("nonsense://x")))

    assert told.side == "your app"
    assert told.retryable is False


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_an_exception_that_has_no_request_is_explained_all_the_same(module):
    """As a mock raises one; httpx's own `request` raises there."""
    told = explain(module.ReadTimeout("planted"))

    assert (told.side, told.retryable) == ("the way there", True)
    assert "planted" not in str(told)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (requests.exceptions.MissingSchema("x"), False),
        (requests.exceptions.InvalidHeader("x"), False),
        (requests.exceptions.TooManyRedirects("x"), False),
        (requests.exceptions.ProxyError("x"), True),
        (requests.exceptions.ChunkedEncodingError("x"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError("x"), True),
        (aiohttp.InvalidURL("x"), False),
        (httpx.ProxyError("x"), True),
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.LocalProtocolError("x"), False),
        (ConnectionResetError("x"), True),
        (KeyError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whose_mistake_an_exception_is(error, retryable):
    told = explain(error)

    assert told.retryable is retryable
    assert told.side == ("the way there" if retryable else "your app")


def _get_with_requests(url):
    return requests.get(url, timeout=5)


def _get_with_aiohttp(url):
    async def get():
        async with aiohttp.ClientSession() as session, session.get(url):
            pass

    return asyncio.run(get())


@pytest.mark.parametrize(
    "get",
    [
        lambda url: httpx.get(url, follow_redirects=True),
        lambda url: httpx2.get(url, follow_redirects=True),
        _get_with_requests,
        _get_with_aiohttp,
    ],
    ids=["httpx", "httpx2", "requests", "aiohttp"],
)
def test_a_circle_of_redirects_is_no_missing_answer(memory, get):
    too_many = tuple(
        module.TooManyRedirects for module in (httpx, httpx2, requests.exceptions, aiohttp)
    )
    with RawServer() as server:
        answer = f"HTTP/1.1 307 X\r\nLocation: {server.url}/models\r\nContent-Length: 0\r\n\r\n"
        server.usual = answer.encode(), False
        with (
            assisters_otel.init(
                hosts=[server.url],
                tracer_provider=memory.tracer_provider,
                meter_provider=memory.meter_provider,
            ),
            pytest.raises(too_many) as raised,
        ):
            get(f"{server.url}/models")

    told = explain(raised.value)

    assert "redirected once too often: TooManyRedirects" in told.what
    assert "base URL" in told.advice
    assert (told.side, told.retryable) == ("your app", False)


def test_what_urllib3_gave_up_on_is_no_trouble_of_the_network():
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=Retry(0, status_forcelist=[503])))
    with FakeApi() as other:
        other.answers(status=503)
        with pytest.raises(requests.exceptions.RetryError) as error:
            session.get(f"{other.url}/models")

    told = explain(error.value)

    assert (told.status, told.side, told.retryable) == (503, "the API", True)
    assert told.what == "The API answered 503."


def test_an_aiohttp_error_s_own_headers_are_read():
    headers = CIMultiDict({"X-Request-ID": "req_1", "Retry-After": "7"})
    error = aiohttp.ClientResponseError(None, (), status=429, headers=headers)

    told = explain(error)

    assert (told.status, told.request_id, told.retry_after_s) == (429, "req_1", 7.0)


@pytest.mark.usefixtures("telemetry")
def test_a_200_whose_body_breaks_off_is_the_way_s(api):
    api.answers(status=200, json={"a": "b" * 99}, fault="truncate")
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        told = explain(raised(lambda: client.chat.completions.create(**CHAT)))

    assert (told.side, told.retryable, told.status) == ("the way there", True, 200)
    assert told.what.startswith("The API answered 200, and its body broke off: ")


def of_aiohttp_read(server):
    async def whole():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/chat/completions", json=CHAT) as response,
        ):
            await response.read()

    asyncio.run(whole())


def of_openai_stream(server):
    with openai.OpenAI(base_url=server.url, api_key="ask_k", max_retries=0) as client:
        list(client.chat.completions.create(**CHAT, stream=True))


@pytest.mark.parametrize("sent_as", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("client", [*CLIENTS[:6], of_aiohttp_read, of_openai_stream])
def test_a_body_that_the_client_cannot_decode_is_an_answer(server, watched, client, sent_as):
    """It was called none, for which the network was to blame."""
    if client is of_assisters and not watched:
        pytest.skip("its exception has no cause, and says that there was no answer")
    headers = {"content-type": sent_as, "content-encoding": "gzip"}
    server.answers(status=200, body=b"data: {}\n\n", headers=headers)

    told = explain(raised(lambda: client(server)))

    assert told.retryable is False
    assert "no answer" not in told.what.lower()
    assert "broke off" not in told.what


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("client", [of_openai, of_openai_async])
def test_a_redirect_that_leads_to_no_answer_has_not_broken_off(api, client):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    api.answers(status=307, headers={"location": f"http://127.0.0.1:{port}/login"})

    told = explain(raised(lambda: client(api)))

    assert told.what == (
        "The API answered 307, and where that led gave no answer: APIConnectionError."
    )


@pytest.mark.usefixtures("telemetry")
def test_a_200_that_the_client_cannot_read_is_no_success(api):
    api.answers(status=200, body="{half", content_type="application/json")
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        with pytest.raises(ValueError, match="Expecting property name") as caught:
            client.chat.completions.create(**CHAT)
        told = explain(caught.value)

    assert (told.side, told.retryable) == ("your app", False)
    assert told.what == "The API answered 200, and the client could not use it: JSONDecodeError."


# -- exceptions that take no weak reference --------------------------------------------------------


class Greeting(pydantic.BaseModel):
    text: str


ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '{"text": 7}'},
        }
    ],
}


def chats(client):
    """Return the place of ``parse``: openai 1 has it under ``beta``."""
    return (
        client.chat.completions
        if hasattr(client.chat.completions, "parse")
        else client.beta.chat.completions
    )


def parse(client):
    return chats(client).parse(**CHAT, response_format=Greeting)


def parse_raw(client):
    return client.chat.completions.with_raw_response.create(**CHAT).parse(to=Greeting)


def parse_streaming(client):
    with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        return answer.parse(to=Greeting)


async def parse_async(client):
    return await chats(client).parse(**CHAT, response_format=Greeting)


async def parse_streaming_async(client):
    async with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        return await answer.parse(to=Greeting)


def sync(ask):
    def asked(server):
        with openai.OpenAI(base_url=server.url, api_key="ask_k", max_retries=0) as client:
            ask(client)

    return asked


def in_async(ask):
    async def whole(server):
        async with openai.AsyncOpenAI(
            base_url=server.url, api_key="ask_k", max_retries=0
        ) as client:
            await ask(client)

    return lambda server: asyncio.run(whole(server))


REFUSED = {
    "parse": sync(parse),
    "async parse": in_async(parse_async),
    "raw": sync(parse_raw),
    "streaming": sync(parse_streaming),
    "async streaming": in_async(parse_streaming_async),
}


def refused(api, how, **options):
    api.answers(status=200, json=ANSWER, request_id="req_7", **options)
    with pytest.raises((pydantic.ValidationError, TypeError, ValueError)) as caught:
        REFUSED[how](api)
    return caught.value


@pytest.mark.parametrize("how", REFUSED)
def test_an_answer_that_the_app_s_own_model_refuses_is_explained(api, memory, telemetry, how):
    error = refused(api, how)
    with pytest.raises(TypeError):
        weakref.ref(error)
    telemetry.flush(5)

    told = explain(error)

    name = type(error).__name__
    assert told.what == f"The API answered 200, and the client could not use it: {name}."
    assert (told.status, told.request_id, told.retryable) == (200, "req_7", False)
    assert told.trace_id == f"{memory.call().context.trace_id:032x}"
    assert explain(_caused(error)).request_id == "req_7"


def _caused(error):
    other = RuntimeError("planted")
    other.__cause__ = error
    return other


@pytest.mark.usefixtures("telemetry")
def test_a_later_call_is_not_taken_for_that_of_an_exception(api):
    error = refused(api, "parse")
    api.answers("invalid_model", request_id="req_8")
    raised(lambda: of_openai(api))

    assert explain(error).request_id == "req_7"


@pytest.mark.usefixtures("telemetry")
def test_nothing_is_kept_for_an_exception_without_weak_references(api):
    before = set(_attempts_by_object_id._kept)  # what a test before this one has left, it may lose
    error = refused(api, "parse")
    assert explain(error).request_id == "req_7"
    watch = weakref.ref(next(_calls_of(error)))

    assert _attempts_by_object_id._kept.keys() <= before
    assert vars(error) == {}
    del error
    gc.collect()
    assert watch() is None


def _calls_of(error):
    step = error.__traceback__
    while step is not None:
        call = step.tb_frame.f_locals.get("call")
        if isinstance(call, Call):
            yield call
        step = step.tb_next


@pytest.mark.parametrize("how", ["cleared", "removed"])
def test_an_exception_that_has_lost_its_frames_is_not_said_to_have_had_no_answer(
    api, telemetry, how
):
    error = refused(api, "parse")
    if how == "cleared":
        traceback.clear_frames(error.__traceback__)
    else:
        error.__traceback__ = None

    told = explain(error)

    assert told.what == "No answer of the API is known for this exception: ValidationError."
    assert "look at where it was raised" in told.advice
    assert (told.side, told.retryable) == ("your app", False)
    assert "no answer known" in told.ticket
    assert telemetry.status().last_failure is None


@pytest.mark.usefixtures("telemetry")
def test_an_exception_of_python_s_own_in_a_send_has_its_attempt(api, memory, anyone):
    def broken():
        yield b"x"
        raise KeyError("x")

    async def broken_async():
        yield b"x"
        raise KeyError("x")

    key = "ask_live_0123456789abcdef"
    with pytest.raises((KeyError, aiohttp.ClientError)) as caught:
        anyone.send(
            "POST",
            f"{api.url}/embeddings",
            headers={"Authorization": f"Bearer {key}"},
            content=broken_async() if anyone.run else broken(),
        )

    told = explain(caught.value)

    assert told.trace_id == f"{memory.attempt().context.trace_id:032x}"
    assert "key " in told.ticket


@pytest.mark.parametrize("header", CREDENTIALS)
@pytest.mark.parametrize("module", [httpx, httpx2, requests])
def test_a_key_that_an_answer_quotes_is_not_explained(module, header):
    key = "q7zk41vttxwm93bd"
    with FakeApi() as other:
        for status in (200, 429):
            error = {"code": key, "type": f"{key}_error", "param": f"x-{key}"}
            other.answers(status=status, json={"error": error}, request_id=f"req_{key}")
            response = module.post(other.url + "/embeddings", headers={header: f"Key {key}"})

            told = explain(response)

            assert key not in str(told)
            assert told.request_id == "req_REDACTED"
            assert (told.code, told.param) == ("REDACTED", "x-REDACTED")


def of_openai_with(key, other):
    with openai.OpenAI(base_url=other.url, api_key=key, max_retries=0) as client:
        client.chat.completions.create(**CHAT)


def of_httpx_with(key, other):
    headers = {"Authorization": f"Bearer {key}"}
    httpx.post(f"{other.url}/chat/completions", headers=headers).raise_for_status()


def of_requests_with(key, other):
    headers = {"Authorization": f"Bearer {key}"}
    requests.post(f"{other.url}/chat/completions", headers=headers, timeout=5).raise_for_status()


def of_aiohttp_with(key, other):
    async def whole():
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
            session.post(f"{other.url}/chat/completions"),
        ):
            pass

    asyncio.run(whole())


# An exception of `assisters` has neither request nor response: only a watched one is known.
@pytest.mark.parametrize("ask", [of_openai_with, of_httpx_with, of_requests_with, of_aiohttp_with])
def test_a_key_that_an_answer_quotes_is_not_explained_of_an_exception_either(ask):
    key = "q7zk41vttxwm93bd"
    error = {"code": key, "type": f"{key}_error", "param": f"x-{key}"}
    with FakeApi() as other:
        other.answers(status=429, json={"error": error}, request_id=f"req_{key}")
        with pytest.raises((*OTHERS, openai.OpenAIError, assisters.AssistersAPIError)) as caught:
            ask(key, other)

    assert key not in str(explain(caught.value))


@pytest.mark.usefixtures("telemetry")
def test_a_mock_of_a_response_is_explained():
    response = mock.MagicMock(status_code=429, headers={"x-request-id": "req_1"})

    told = explain(response)

    assert (told.status, told.request_id) == (429, "req_1")


def test_a_record_of_the_catalog_is_its_code():
    assert explain(catalog.find("invalid_model")) == explain("invalid_model")


@pytest.mark.parametrize("thing", ["", " "])
def test_an_empty_code_says_what_to_write(thing):
    with pytest.raises(ValueError, match="a response or an error code, not an empty text"):
        explain(thing)


def test_something_else_says_what_to_write():
    with pytest.raises(ValueError, match="an exception, a response or an error code, not int"):
        explain(429)


class _Unhashable(httpx.ConnectError):
    __hash__ = None

    def __eq__(self, other):
        return isinstance(other, _Unhashable)


@pytest.mark.usefixtures("telemetry")
def test_what_is_seen_of_an_exception_is_found_though_it_has_no_hash_and_goes_with_it(api):
    class Refusing(httpx.SyncByteStream):
        def __iter__(self):
            raise _Unhashable("refused")

    error = raised(lambda: httpx.post(f"{api.url}/embeddings", content=Refusing()))

    assert error == _Unhashable("another")
    assert find_attempt(_Unhashable("another")) is None
    assert find_attempt(error).outcome.exception == "_Unhashable"
    key = id(error)
    assert key in _attempts_by_object_id._kept
    error.__traceback__ = None
    del error
    gc.collect()
    assert key not in _attempts_by_object_id._kept


@pytest.mark.usefixtures("telemetry")
def test_nothing_is_left_on_the_app_s_objects(api):
    api.answers("internal_error")
    response = httpx.get(f"{api.url}/models")

    assert not [name for name in vars(response) if "assisters" in name]
    assert assisters_otel.explain(response).code == "internal_error"
