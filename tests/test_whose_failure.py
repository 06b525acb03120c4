"""`explain` and `retryable` tell an exception of the API's clients from any other one."""

from __future__ import annotations

import asyncio
import copy
import errno
import functools
import http.client
import io
import shutil
import smtplib
import socket
import ssl
import sys
import urllib.error
import urllib.request
from email.message import Message

import aiohttp
import anyio
import assisters
import httpx
import httpx2
import openai
import pytest
import requests
from starlette.exceptions import HTTPException

from assisters_otel import catalog, explain, retry_after_s, retryable
from assisters_otel.testing import FakeApi
from callers import in_client
from memory import watching
from raw_server import RawServer

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "planted"}]}


def of_httpx(url, module=httpx):
    module.get(f"{url}/models", trust_env=False).raise_for_status()


def of_requests(url):
    requests.get(f"{url}/models", timeout=30).raise_for_status()


def of_aiohttp(url):
    async def whole():
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/models") as response,
        ):
            response.raise_for_status()

    asyncio.run(whole())


def of_openai(url):
    with openai.OpenAI(base_url=url, api_key="ask_k", max_retries=0) as client:
        client.chat.completions.create(**CHAT)


def of_openai_async(url):
    async def whole():
        async with openai.AsyncOpenAI(base_url=url, api_key="ask_k", max_retries=0) as client:
            await client.chat.completions.create(**CHAT)

    asyncio.run(whole())


def of_assisters(url):
    with assisters.Assisters("ask_k", base_url=url, max_retries=1) as client:
        client.chat.completions.create(**CHAT)


WAYS = {
    "httpx": of_httpx,
    "httpx2": lambda url: of_httpx(url, httpx2),
    "requests": of_requests,
    "aiohttp": of_aiohttp,
    "openai": of_openai,
    "openai-async": of_openai_async,
    "assisters": of_assisters,
}


def raised(call, *args):
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - each client has its own
        call(*args)
    return caught.value


# -- exceptions that are no client's ---------------------------------------------------------------


def named(name, module, *bases, **members):
    return type(name, bases or (Exception,), {"__module__": module, **members})


def raise_within(error):
    try:
        raise FileNotFoundError(errno.ENOENT, "No such file", "prompts.json")
    except OSError:
        raise error  # noqa: B904 - its context is what is tried


def database_error():
    error = named("ProgrammingError", "sqlalchemy.exc")("x")
    error.code, error.type = "f405", "server_error"
    return error


NO_CLIENT_S = {
    "a missing file": lambda: FileNotFoundError(errno.ENOENT, "No such file", "audio.mp3"),
    "a forbidden file": lambda: PermissionError(errno.EACCES, "denied"),
    "a full disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "a copy of files": lambda: shutil.Error("x"),
    "a mail server's refusal": lambda: smtplib.SMTPAuthenticationError(535, b"bad"),
    "a mail server that hangs up": lambda: smtplib.SMTPServerDisconnected("x"),
    "a database's connection": lambda: named("ConnectionError", "redis.exceptions")("x"),
    "a database's connection, by its base": lambda: named(
        "ConnectionError", "redis.exceptions", ConnectionError
    )("x"),
    "a database's time-out": lambda: named("TimeoutError", "redis.exceptions")("x"),
    "a database's pool": lambda: named("PoolTimeout", "psycopg_pool")("x"),
    "a database's code": database_error,
    "a page of the app's that is not there": lambda: HTTPException(404),
    "a page of the app's that is busy": lambda: HTTPException(503, headers={"retry-after": "7"}),
    "another server": lambda: urllib.error.HTTPError(
        "http://other.example/x", 503, "no", Message(), io.BytesIO()
    ),
    "another server that is not there": lambda: urllib.error.URLError("x"),
    "a cloud's answer": lambda: named("ClientError", "botocore", response={"status": 503})("x"),
    "a key that is missing after a file": lambda: raised(raise_within, KeyError("no prompt")),
}


@pytest.mark.parametrize("what", NO_CLIENT_S)
def test_an_exception_of_no_client_is_neither_the_api_s_nor_the_network_s(what):
    error = NO_CLIENT_S[what]()

    told = explain(error)

    assert told.what == (
        f"No answer of the API is known for this exception: {type(error).__qualname__}."
    )
    assert (told.side, told.status, told.code) == ("your app", None, None)
    assert retryable(error) is False
    assert retry_after_s(error) is None
    assert "network" not in told.advice


@pytest.mark.parametrize("way", WAYS)
def test_the_app_s_own_wrapper_of_an_answer_has_that_answer_though_it_is_not_watched(way):
    def ask(url):
        try:
            WAYS[way](url)
        except Exception as error:
            raise KeyError("the app's own") from error

    with FakeApi() as other:
        other.answers("internal_error", times=2)
        told = explain(raised(ask, other.url))

    assert (told.status, told.side, told.retryable) == (500, "the API", True)


def raised_by_asyncio(error):
    place = {"__name__": "asyncio.selector_events", "error": error}
    return raised(exec, "raise error", place)


NETWORK_S = {
    "a reset": lambda: ConnectionResetError(errno.ECONNRESET, "x"),
    "a broken pipe": lambda: BrokenPipeError(errno.EPIPE, "x"),
    "a peer that hangs up": lambda: http.client.RemoteDisconnected("x"),
    "a time-out": TimeoutError,
    "a time-out of asyncio's": asyncio.TimeoutError,
    "a socket's time-out that asyncio raises": lambda: raised_by_asyncio(
        TimeoutError(errno.ETIMEDOUT, "x")
    ),
    "a name": lambda: socket.gaierror(socket.EAI_NONAME, "x"),
    "a handshake": lambda: ssl.SSLError(1, "x"),
    "no route": lambda: OSError(errno.EHOSTUNREACH, "x"),
    "no network": lambda: OSError(errno.ENETUNREACH, "x"),
}


@pytest.mark.parametrize("what", NETWORK_S)
def test_an_exception_of_a_socket_that_a_client_lets_pass_stays_the_network_s(what):
    told = explain(NETWORK_S[what]())

    assert (told.side, told.retryable) == ("the way there", True)


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("way", ["requests", "aiohttp"])
def test_a_file_of_the_app_s_that_cannot_be_read_is_not_the_network_s(api, memory, way, is_watched):
    class Missing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, _):
            raise FileNotFoundError(errno.ENOENT, "No such file", "audio.mp3")

    def ask():
        if way == "requests":
            requests.post(f"{api.url}/embeddings", data=Missing(), timeout=30)

        async def whole():
            async with aiohttp.ClientSession() as session:
                await session.post(f"{api.url}/embeddings", data=_failing())

        asyncio.run(whole())

    async def _failing():
        yield b"x"
        raise FileNotFoundError(errno.ENOENT, "No such file", "audio.mp3")

    with watching(api, memory, hosts=[api.url] if is_watched else ["gw.example"]):
        error = raised(ask)

    assert retryable(error) is False
    assert explain(error).side == "your app"


# -- another server, while the API's answer is handled ---------------------------------------------


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("code", ["model_overloaded", "api_key_revoked"])
@pytest.mark.parametrize("way", WAYS)
def test_the_answer_of_a_server_that_is_not_watched_is_not_the_one_that_was_handled(api, way, code):
    api.answers(code, request_id="req_first")

    def ask(url):
        try:
            of_openai(api.url)
        except openai.APIError:
            WAYS[way](url)

    with FakeApi() as other:
        other.answers("invalid_model", request_id="req_other")
        error = raised(ask, other.url)

    told = explain(error)
    assert (told.status, told.retryable) == (400, False)
    assert told.request_id != "req_first"
    assert "key " not in told.ticket, "the first request's"


@pytest.mark.usefixtures("telemetry")
def test_a_server_that_is_not_watched_and_not_there_is_not_the_answer_that_was_handled(api, anyone):
    api.answers("api_key_revoked", request_id="req_first")

    async def script(request):
        try:
            of_openai(api.url)
        except openai.APIError:
            return await request("GET", "http://127.0.0.1:9/v1/models")

    told = explain(raised(in_client, anyone, script))

    assert (told.code, told.status, told.request_id) == (None, None, None)
    assert (told.side, told.retryable) == ("the way there", True)
    assert told.what.startswith("There was no answer: ")


def open_file(_):
    open("/nowhere/cache.json", "rb")  # noqa: PTH123, SIM115 - it is not there


def open_url(_):
    urllib.request.urlopen("http://127.0.0.1:9/")


def connect(_):
    socket.create_connection(("127.0.0.1", 9), timeout=30)


def connect_wrapped(_):
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=30)
    except OSError:
        http.client.HTTPConnection("127.0.0.1", 9).request("GET", "/")


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("act", [open_file, open_url, connect, connect_wrapped])
def test_what_the_system_refuses_is_not_the_answer_that_was_handled(api, act):
    api.answers("api_key_revoked")

    def ask():
        try:
            of_openai(api.url)
        except openai.APIError as error:
            act(error)

    assert explain(raised(ask)).code is None


def wrap(error):
    raise ValueError("the app's own") from error


def wrap_without_cause(_):
    raise ValueError("the app's own")


def wrap_from_none(_):
    raise ValueError("the app's own") from None


def wrap_in_a_client_s_class(_):
    class Own(openai.OpenAIError):
        pass

    raise Own("the app's own")


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize(
    "act", [wrap, wrap_without_cause, wrap_from_none, wrap_in_a_client_s_class]
)
@pytest.mark.parametrize("way", WAYS)
def test_what_the_app_itself_raises_of_an_answer_has_that_answer(api, act, way):
    api.answers("insufficient_funds", request_id="req_first")

    def ask():
        try:
            WAYS[way](api.url)
        except Exception as error:  # noqa: BLE001 - each client's own
            act(error)

    told = explain(raised(ask))

    assert (told.code, told.request_id) == ("insufficient_funds", "req_first")


class OfWrapper(Exception):  # noqa: N818 - as litellm has it, within its own
    def __init__(self, response):
        self.response = response


class OfWrapperByBase(openai.InternalServerError):
    pass


def made_up(_):
    return httpx.Response(500, request=httpx.Request("POST", "https://gw.example/v1"))


def in_layers(ask, response_of):
    """Raise what a wrapper does of an SDK's exception: one of its own, and another one of that."""
    try:
        try:
            ask()
        except Exception as error:  # noqa: BLE001 - each client's own
            raise OfWrapper(response_of(error))  # noqa: B904 - its context is what is tried
    except OfWrapper as error:
        raise OfWrapperByBase("x", response=response_of(error), body=None)  # noqa: B904 - the same


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("response_of", [made_up, lambda error: copy.copy(error.response)])
@pytest.mark.parametrize("way", ["httpx", "httpx2", "openai", "openai-async"])
def test_a_wrapper_s_own_response_does_not_hide_the_answer(api, way, response_of):
    api.answers("insufficient_funds", request_id="req_first")

    told = explain(raised(in_layers, lambda: WAYS[way](api.url), response_of))

    assert (told.status, told.code, told.request_id) == (402, "insufficient_funds", "req_first")
    assert told.trace_id, "that of the attempt"


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("way", WAYS)
def test_a_wrapper_s_own_status_is_no_answer_where_there_was_none(api, memory, way, is_watched):
    api.answers(fault="drop", times=4)
    with watching(api, memory, hosts=[api.url] if is_watched else ["gw.example"]):
        told = explain(raised(in_layers, lambda: WAYS[way](api.url), made_up))

    assert told.status is None
    assert told.what.startswith("There was no answer")
    assert (told.side, told.retryable) == ("the way there", True)


def wrapper_s(base, status, response):
    """Return an exception as litellm derives it: with a status, a code and a type of its own."""
    request = httpx.Request("POST", "https://gw.example/v1")
    if issubclass(base, openai.APIStatusError):
        own = type("OfWrapper", (base,), {})("x", response=response, body=None)
    elif base is openai.APITimeoutError:
        own = type("OfWrapper", (base,), {})(request=request)
    else:
        own = type("OfWrapper", (base,), {})(message="x", request=request, **NO_BODY.get(base, {}))
    own.status_code, own.code, own.type = status, str(status), "wrapper_error"
    return own


NO_BODY = {openai.APIError: {"body": None}}
STATUSES = {
    openai.InternalServerError: 500,
    openai.BadRequestError: 400,
    openai.RateLimitError: 429,
    openai.APIStatusError: 503,
    openai.APIError: 500,
    openai.APIConnectionError: 500,
    openai.APITimeoutError: 408,
}


@pytest.mark.parametrize("base", STATUSES)
def test_a_status_that_a_wrapper_has_made_up_is_no_answer_of_the_api(base):
    status = STATUSES[base]
    response = httpx.Response(status, request=httpx.Request("POST", "https://gw.example/v1"))

    told = explain(wrapper_s(base, status, response))

    assert (told.status, told.code, told.type) == (None, None, None)
    assert told.retryable is issubclass(base, openai.APIConnectionError)
    assert " answered" not in told.what


@pytest.mark.parametrize(
    "base", [base for base in STATUSES if issubclass(base, openai.APIStatusError)]
)
def test_a_wrapper_s_exception_with_the_answer_itself_has_its_status(api, base):
    api.answers("rate_limit_exceeded", request_id="req_first")
    answer = httpx.get(f"{api.url}/models", trust_env=False)

    told = explain(wrapper_s(base, 500, answer))

    assert (told.status, told.code, told.request_id) == (429, "rate_limit_exceeded", "req_first")


def test_the_sdk_s_own_exception_with_a_response_that_a_test_has_made_has_its_status():
    response = httpx.Response(429, request=httpx.Request("POST", "https://gw.example/v1"))

    told = explain(openai.RateLimitError("x", response=response, body=None))

    assert (told.status, told.retryable) == (429, True)


def sent_unread(module, url):
    with module.Client(trust_env=False) as client:
        return client.send(client.build_request("GET", url), stream=True)


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("module", [httpx, httpx2, requests])
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
def test_another_server_s_answer_that_the_app_itself_raises_is_not_the_one_that_was_handled(
    api, module, is_read
):
    api.answers("api_key_revoked")
    get = functools.partial(module.get, timeout=30)
    if not is_read:
        streamed = functools.partial(module.get, stream=True, timeout=30)
        get = streamed if module is requests else functools.partial(sent_unread, module)

    def ask(url):
        try:
            of_openai(api.url)
        except openai.APIError:
            raise OfWrapper(get(f"{url}/models"))  # noqa: B904 - the same

    with FakeApi() as other:
        other.answers("internal_error")
        error = raised(ask, other.url)
        told = explain(error)
        error.response.close()

    assert told.code != "api_key_revoked"


@pytest.mark.usefixtures("telemetry")
def test_an_exception_in_many_layers_of_the_app_has_its_answer(api):
    api.answers("insufficient_funds")

    def layer(number):
        try:
            of_openai_async(api.url) if number == 0 else layer(number - 1)
        except Exception as error:
            raise ValueError(number) from error

    assert explain(raised(layer, 9)).code == "insufficient_funds"


# -- the app's own time limit ----------------------------------------------------------------------


async def httpx_async(url, module=httpx, **options):
    async with module.AsyncClient(trust_env=False, **options) as client:
        await client.get(f"{url}/models")


async def aiohttp_async(url, **options):
    async with (
        aiohttp.ClientSession(**options) as session,
        session.get(f"{url}/models") as response,
    ):
        await response.read()


async def openai_async(url, **options):
    async with openai.AsyncOpenAI(
        base_url=url, api_key="ask_k", max_retries=0, **options
    ) as client:
        await client.chat.completions.create(**CHAT)


ASYNC = {
    "httpx": httpx_async,
    "httpx2": lambda url: httpx_async(url, httpx2),
    "aiohttp": aiohttp_async,
    "openai": openai_async,
}


async def by_wait_for(ask):
    await asyncio.wait_for(ask, 0.2)


async def by_timeout(ask):
    async with asyncio.timeout(0.2):
        await ask


async def by_fail_after(ask):
    with anyio.fail_after(0.2):
        await ask


async def by_cancel(ask):
    task = asyncio.ensure_future(ask)
    await asyncio.sleep(0.2)
    task.cancel()
    await task


LIMITS = [
    by_wait_for,
    by_fail_after,
    by_cancel,
    pytest.param(
        by_timeout, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")
    ),
]


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("fault", ["silence", "stall"])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("way", ASYNC)
def test_the_app_s_own_time_limit_is_not_the_network_s(api, way, limit, fault):
    api.answers(fault=fault)

    async def whole():
        await limit(ASYNC[way](api.url))

    error = raised(asyncio.run, whole())
    told = explain(error)

    assert "the app itself gave up waiting for the " in told.what.replace("The app", "the app")
    assert type(error).__name__ in told.what
    assert (told.side, told.retryable) == ("your app", False)
    assert "time limits" in told.advice
    assert "network" not in told.advice


CLIENTS_OWN = {
    "httpx": lambda url: httpx_async(url, timeout=0.2),
    "httpx2": lambda url: httpx_async(url, httpx2, timeout=0.2),
    "aiohttp-total": lambda url: aiohttp_async(url, timeout=aiohttp.ClientTimeout(total=0.2)),
    "aiohttp-read": lambda url: aiohttp_async(url, timeout=aiohttp.ClientTimeout(sock_read=0.2)),
    "openai": lambda url: openai_async(url, timeout=0.2),
}


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("fault", ["silence", "stall"])
@pytest.mark.parametrize("way", CLIENTS_OWN)
def test_a_client_s_time_limit_stays_the_network_s(api, memory, way, fault, is_watched):
    api.answers(fault=fault)
    with watching(api, memory, hosts=[api.url] if is_watched else ["gw.example"]):
        told = explain(raised(asyncio.run, CLIENTS_OWN[way](api.url)))

    assert (told.side, told.retryable) == ("the way there", True)


# -- a circle of redirects -------------------------------------------------------------------------


def models_of_openai(url):
    with openai.OpenAI(base_url=url, api_key="ask_k", max_retries=0) as client:
        client.models.list()


def models_of_openai_async(url):
    async def whole():
        async with openai.AsyncOpenAI(base_url=url, api_key="ask_k", max_retries=0) as client:
            await client.models.list()

    asyncio.run(whole())


FOLLOWING = {  # `assisters` follows none
    "requests": of_requests,
    "aiohttp": of_aiohttp,
    "openai": models_of_openai,
    "openai-async": models_of_openai_async,
    "httpx": lambda url: httpx.get(f"{url}/models", follow_redirects=True, trust_env=False),
    "httpx2": lambda url: httpx2.get(f"{url}/models", follow_redirects=True, trust_env=False),
}


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("way", FOLLOWING)
def test_a_circle_of_redirects_is_no_body_that_broke_off(memory, way, is_watched):
    with RawServer() as server:
        answer = f"HTTP/1.1 307 X\r\nLocation: {server.url}/models\r\nContent-Length: 0\r\n\r\n"
        server.usual = answer.encode(), False
        with watching(
            server, memory, hosts=[server.url] if is_watched else ["gw.example"], strict=False
        ):
            error = raised(FOLLOWING[way], server.url)

    told = explain(error)

    assert "redirected once too often: TooManyRedirects" in told.what
    assert "base URL" in told.advice
    assert (told.side, told.retryable) == ("your app", False)


# -- an answer that came ---------------------------------------------------------------------------


def json_of_page(url):
    requests.get(f"{url}/models", timeout=30).json()


def unread(url, module=httpx):
    with module.stream("GET", f"{url}/models", trust_env=False) as response:
        response.json()


def consumed(url, module=httpx):
    with module.stream("GET", f"{url}/models", trust_env=False) as response:
        list(response.iter_raw())
        list(response.iter_raw())


def closed(url, module=httpx):
    with module.stream("GET", f"{url}/models", trust_env=False) as response:
        response.close()
        response.read()


def consumed_by_requests(url):
    with requests.get(f"{url}/models", timeout=30, stream=True) as response:
        list(response.iter_content(1))
        list(response.iter_content(1))


AFTER = {
    "no JSON": json_of_page,
    "unread": unread,
    "unread-httpx2": lambda url: unread(url, httpx2),
    "consumed": consumed,
    "consumed-httpx2": lambda url: consumed(url, httpx2),
    "consumed-requests": consumed_by_requests,
    "closed": closed,
    "closed-httpx2": lambda url: closed(url, httpx2),
}
PAGE = {"status": 200, "body": "<html>login</html>", "content_type": "text/html"}


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("what", AFTER)
def test_an_answer_that_came_is_not_said_to_be_none(api, memory, what, is_watched):
    api.answers(**PAGE)
    with watching(api, memory, hosts=[api.url] if is_watched else ["gw.example"]):
        error = raised(AFTER[what], api.url)

    told = explain(error)
    assert f"the client could not use it: {type(error).__qualname__}" in told.what
    assert "no answer" not in str(told)
    assert "did not leave" not in told.advice
    assert (told.side, told.retryable) == ("your app", False)


@pytest.mark.parametrize("event", ['{"error": "planted"}', '{"error": {"message": "planted"}}'])
def test_an_error_event_of_a_stream_that_is_not_watched_is_an_answer(event):
    with FakeApi() as other, openai.OpenAI(base_url=other.url, api_key="ask_k") as client:
        other.answers(body=f"data: {event}\n\n", content_type="text/event-stream")
        stream = client.chat.completions.create(**CHAT, stream=True)
        told = explain(raised(list, stream))

    assert told.what == "An answer came, and the client could not use it: APIError."
    assert "did not leave" not in told.advice
    assert "no answer" not in told.ticket


@pytest.mark.usefixtures("telemetry")
def test_a_body_that_requests_cannot_encode_is_not_said_to_be_answered(api):
    told = explain(raised(lambda: requests.post(api.url, json=float("nan"), timeout=30)))

    assert told.what == "There was no answer: InvalidJSONError."
    assert "did not leave" in told.advice


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("module", [httpx, httpx2, requests])
@pytest.mark.parametrize(
    ("error", "side"),
    [
        ({"code": "api_key_revoked", "type": "authentication_error"}, "your account"),
        ({"code": "model_overloaded", "type": "server_error"}, "the API"),
        ({"code": "brand_new"}, "your app"),
        ("planted", "your app"),
    ],
    ids=["documented", "passing", "undocumented", "text"],
)
def test_an_error_in_place_of_a_result_is_no_success(api, memory, module, is_watched, error, side):
    api.answers(status=200, json={"error": error})
    with watching(api, memory, hosts=[api.url] if is_watched else ["gw.example"]):
        response = module.get(f"{api.url}/models", timeout=30)
        told = explain(response)

    code = error["code"] if isinstance(error, dict) else None
    assert told.what == (f"The API answered 200, which is no success{f': {code}' if code else ''}.")
    assert (told.code, told.side) == (code, side)
    assert told.retryable is (code == "model_overloaded")
    assert told.user_message
    assert told.advice != "Nothing to do."


@pytest.mark.usefixtures("telemetry")
def test_a_result_that_has_an_error_of_its_own_is_a_success(api):
    result = {"id": "resp_1", "object": "response", "error": {"code": "server_error"}}
    api.answers(status=200, json=result)

    told = explain(httpx.get(f"{api.url}/models", trust_env=False))

    assert (told.what, told.side) == ("The API answered 200.", "nobody: it succeeded")


@pytest.mark.usefixtures("telemetry")
def test_a_raw_answer_of_openai_with_an_error_in_place_of_a_result_is_no_success(api):
    api.answers(status=200, json={"error": {"code": "api_key_revoked"}})

    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        raw = client.models.with_raw_response.list()
        raw.parse()
        told = explain(raw)

    assert told.what == "The API answered 200, which is no success: api_key_revoked."


# -- the message for a user ------------------------------------------------------------------------

THINGS = {
    **{error.code: lambda code=error.code: code for error in catalog.ERRORS},
    **{
        f"{status} {error}": lambda status=status, error=error: httpx.Response(
            status, json={"error": error}
        )
        for status in (200, 302, 400, 401, 403, 404, 407, 408, 409, 429, 500, 503)
        for error in [None, "x", {"code": "new"}, *({"type": one.type} for one in catalog.ERRORS)]
    },
    **NO_CLIENT_S,
    **NETWORK_S,
    **{
        f"{kind.__module__}.{kind.__name__}": lambda kind=kind: kind("x")
        for kind in (
            *(httpx.ConnectError, httpx.UnsupportedProtocol, httpx.TooManyRedirects),
            *(httpx.PoolTimeout, httpx.ReadTimeout, httpx.StreamError, httpx.DecodingError),
            *(requests.exceptions.InvalidURL, requests.exceptions.ConnectionError),
            *(aiohttp.InvalidURL, aiohttp.ClientPayloadError, openai.OpenAIError),
            *(ssl.SSLCertVerificationError, KeyboardInterrupt, asyncio.CancelledError),
        )
    },
    "a proxy's refusal": lambda: httpx.ProxyError("407 Proxy Authentication Required"),
    "a busy proxy": lambda: httpx.ProxyError("503 Busy"),
}


@pytest.mark.parametrize("what", THINGS)
def test_a_user_is_told_to_try_again_if_and_only_if_a_retry_can_help(what):
    told = explain(THINGS[what]())

    says_again = "try again in a moment" in told.user_message
    assert says_again is told.retryable
    assert "will not help" not in told.user_message or not told.retryable


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize(
    "answer", [PAGE, {"status": 200, "body": "{half", "content_type": "application/json"}]
)
def test_nobody_is_told_to_try_again_what_a_client_cannot_read(api, answer):
    api.answers(**answer)

    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        told = explain(raised(lambda: client.models.list().data[0].id))

    assert told.retryable is False
    assert "try again" not in told.user_message


# -- what is given otherwise -----------------------------------------------------------------------


def test_a_code_with_blanks_around_it_is_that_code():
    assert explain(" rate_limit_exceeded\n") == explain("rate_limit_exceeded")


def test_a_type_without_a_code_has_the_advice_of_its_only_code():
    told = explain(httpx.Response(429, json={"error": {"type": "rate_limit_error"}}))

    row = catalog.find("rate_limit_exceeded")
    assert (told.retryable, told.advice) == (True, row.advice)
    assert told.user_message == row.user_message


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")
@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_only_error_of_the_api_in_a_group_is_explained(api, memory, is_watched, depth):
    api.answers("rate_limit_exceeded", retry_after=3)

    async def group(left):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(group(left - 1) if left else openai_async(api.url))
            await asyncio.sleep(30)

    with watching(api, memory, hosts=[api.url] if is_watched else ["gw.example"]):
        error = raised(asyncio.run, group(depth))

    told = explain(error)
    assert (told.code, told.status) == ("rate_limit_exceeded", 429)
    assert retry_after_s(error) == pytest.approx(3, abs=0.5)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")
def test_of_a_group_with_two_errors_of_the_api_none_is_chosen():
    group = ExceptionGroup("x", [httpx.ConnectError("x"), httpx.UnsupportedProtocol("x")])  # noqa: F821 - new in 3.11

    told = explain(group)
    assert "No answer of the API is known" in told.what
    assert told.advice.endswith("explain each of the group's exceptions.")
    assert "no exception of the API's clients" not in told.advice
    assert retryable(group) is False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")
def test_of_a_group_without_an_error_of_the_api_nothing_is_said_of_the_api():
    group = ExceptionGroup("x", [KeyError("x"), ValueError("x")])  # noqa: F821 - new in 3.11

    assert "This is no exception of the API's clients" in explain(group).advice


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")
def test_the_error_of_the_api_in_a_group_is_explained_beside_one_of_the_app_s():
    group = ExceptionGroup("x", [KeyError("x"), httpx.ConnectError("x")])  # noqa: F821 - new in 3.11

    assert retryable(group) is True
