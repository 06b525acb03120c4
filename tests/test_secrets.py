"""A key in the wrong place is shown nowhere: in any argument, variable, header or exception."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
import json
import logging
import re
import sys
from pathlib import Path

import aiohttp
import httpx
import openai
import pytest
import requests

import assisters_otel
from assisters_otel import cli
from assisters_otel.api import redaction
from assisters_otel.variables import rules
from callers import CALLERS
from memory import Memory, watching
from raw_server import RawServer
from sizes import SIZE, shared

ODD = "q7Zk41vTTxWm93bd"  # as any gateway may make them: it is known by where it stands alone
KNOWN = ("ask_live_q7Zk41vTTxWm93bd", "sk-q7Zk41vTTxWm93bd", "asst_sk_q7Zk41vTTxWm93bd")
JWT = "eyJhbGciOiJIUzI1NiJ9.q7Zk41vTTxWm93bd.c2lnbmF0dXJl"
SOURCES = Path(str(assisters_otel.__file__)).parent
SAYS = re.compile(r"(Error|Argument|Finding|Mistake|warning|info|[a-z]\.error)$")
"""The functions by which the library tells people something."""
HIDDEN = re.compile("q7Zk41|Wm93bd|c2lnbmF0dXJl")

IN_PLACE = (
    "https://gw.example/v1?api_key={}",
    "https://gw.example/v1?x=1&token={}#frag",
    "https://gw.example/v1#{}",
    "https://user:{}@gw.example/v1?",
    "https://{}@gw.example/v1?",
    "https://user:pa/{}@gw.example/v1",
    "Bearer {}",
    "authorization=Bearer {}",
    "api-key={}",
    "password: {}",
    "{} gw.example",
    "{}",
)
"""What somebody may have pasted."""


def texts():
    for place in IN_PLACE:
        for key in (ODD, *KNOWN, JWT):
            yield place.format(key)


@pytest.fixture
def said(caplog, capfd):
    """All that was written: by us, by OpenTelemetry, and to both streams."""
    caplog.set_level(logging.DEBUG)

    def take():
        ours = [one for one in caplog.records if one.name.startswith(("assisters", "opentel"))]
        lines = [f"{one.name}: {one.getMessage()} {vars(one)}" for one in ours]
        return "\n".join((*lines, *capfd.readouterr()))

    return take


def hide(text):
    assert not HIDDEN.search(text), text[max(HIDDEN.search(text).start() - 200, 0) :][:400]


# -- arguments -----------------------------------------------------------------------------------

ARGUMENTS = {
    "endpoint": lambda text: {"endpoint": text},
    "protocol": lambda text: {"protocol": text},
    "hosts": lambda text: {"hosts": [f"https://gw.example/v1?{text}"]},
    "a host": lambda text: {"hosts": [text]},
    "a header's name": lambda text: {"headers": {f"{text} ": "x"}},
    "a header's value": lambda text: {"headers": {"authorization": f"{text}\n"}},
    "headers": lambda text: {"headers": text},
    "hosts, without brackets": lambda text: {"hosts": text},
    "capture_message": lambda text: {"capture_message": text},
    "key_fingerprint": lambda text: {"key_fingerprint": text},
    "baggage": lambda text: {"baggage": text},
    "an entry of the baggage": lambda text: {"baggage": ["le", text]},
    "strict": lambda text: {"strict": text},
    "tracer_provider": lambda text: {"tracer_provider": text},
    "meter_provider": lambda text: {"meter_provider": text},
    "service_name": lambda text: {"service_name": [text]},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_wrong_argument_is_told_without_the_key_in_it(said, name):
    for text in texts():
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(assisters_otel.init(**ARGUMENTS[name](text)))
            except ValueError as error:
                assert re.search("Write|Leave", str(error))  # noqa: PT017 - the rest are none
                hide(str(error))
    hide(said())


# -- variables -----------------------------------------------------------------------------------

VARIABLES = [
    "ASSISTERS_BASE_URL",
    "ASSISTERS_OTEL_HOSTS",
    "ASSISTERS_OTEL_CAPTURE_MESSAGE",
    "ASSISTERS_OTEL_KEY_FINGERPRINT",
    "ASSISTERS_OTEL_BAGGAGE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_PYTHON_ID_GENERATOR",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_SDK_DISABLED",
]
# What nobody can tell from the name of a host, an exporter or a file is not hidden.
BARE = re.compile(r"[\w-]+")


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_key_in_a_variable_is_not_shown(said, monkeypatch, variable):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    told = []
    for text in shared(texts(), VARIABLES.index(variable), 4):
        monkeypatch.setenv(variable, text)
        with assisters_otel.init("x") as handle:
            told += [repr(handle), repr(handle.status())]
            handle._exports and handle._exports.shutdown(0)  # nobody listens, which is told

    hide("\n".join(told))
    hide(said())


@pytest.mark.parametrize("variable", rules.RULES)
def test_the_hint_for_a_variable_is_not_taken_for_a_key(variable):
    rule = rules.RULES[variable]
    text = f"{variable}='x' cannot be used, {rule.default} is taken instead. Write {rule.write()}"

    assert redaction.redact(text) == text


def texts_of_ours():
    """What errors, log lines and findings say: where it stands, and its words."""
    for path in sorted(SOURCES.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and SAYS.search(ast.unparse(call.func)):
                for one in (*call.args, *(keyword.value for keyword in call.keywords)):
                    told = "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "x"
                        for part in (one.values if isinstance(one, ast.JoinedStr) else [one])
                    )
                    yield f"{path.name}:{one.lineno}", told


def test_no_error_log_line_or_finding_of_ours_is_taken_for_a_key():
    told = list(texts_of_ours())

    assert len(told) > 150
    assert [(place, text) for place, text in told if redaction.redact(text) != text] == []


OF_DOCTOR = list(dict.fromkeys((*VARIABLES, *rules.RULES)))


@pytest.mark.parametrize("variable", OF_DOCTOR)
def test_doctor_shows_no_key_of_a_variable(monkeypatch, capsys, caplog, variable):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    forms = (["doctor"], ["doctor", "--json"])
    pasted = (IN_PLACE[0].format(ODD), IN_PLACE[3].format(ODD), KNOWN[0], f"Bearer {JWT}")
    for place, text in enumerate(pasted, OF_DOCTOR.index(variable)):
        monkeypatch.setenv(variable, text)
        for arguments in forms if SIZE > 1 else [forms[place % 2]]:
            monkeypatch.setattr(sys, "argv", ["assisters-otel", *arguments])
            with pytest.raises(SystemExit):
                cli.main()
            out, err = capsys.readouterr()
            hide(out + err + caplog.text)
            if "--json" in arguments:
                json.loads(out)


# -- requests and answers ------------------------------------------------------------------------

CAPTURE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{}"
SECRET_HEADERS = {
    "Authorization": f"Bearer {ODD}",
    "X-Api-Key": ODD,
    "Api-Key": ODD,
    "Cookie": f"session={ODD}",
    "Proxy-Authorization": f"Basic {ODD}",
    "X-Auth-Token": ODD,
    "X-Custom": KNOWN[0],
}
ECHOES = (
    ("Set-Cookie", f"session={ODD}; Path=/"),
    ("X-Echo", f"Bearer {ODD}"),
    ("X-Own", ODD),
    ("WWW-Authenticate", f"Bearer {ODD}"),
    ("X-Request-ID", f"req-{ODD}"),
)


def exported(memory, said, *things):
    spans = [span.to_json() for span in memory.spans()]
    points = [repr(points) for points in memory.collect().values()]
    return "\n".join((*spans, *points, said(), *map(str, things), *map(repr, things)))


@pytest.fixture
def watch(monkeypatch):
    """Have everything captured, and watch some hosts."""
    for which in ("REQUEST", "RESPONSE"):
        monkeypatch.setenv(CAPTURE.format(which), ".*")

    @contextlib.contextmanager
    def watched(memory, *urls):
        with assisters_otel.init(
            hosts=urls,
            capture_message=True,
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ) as handle:
            yield handle

    return watched


@pytest.mark.parametrize("status", [200, 401])
def test_a_key_that_was_sent_or_is_echoed_is_nowhere(watch, memory, said, anyone, status):
    body = (
        f'{{"error": {{"type": "{ODD}", "code": "{ODD}", "param": "{ODD}", '
        f'"message": "No such key: {ODD}, nor api_key={ODD}"}}}}'
    ).encode()
    lines = [f"HTTP/1.1 {status} So".encode()]
    lines += [f"{name}: {value}".encode() for name, value in ECHOES]
    lines += [b"Content-Length: %d" % len(body), b"", body]
    with RawServer() as server, watch(memory, server.url):
        server.answer = b"\r\n".join(lines), False
        response = anyone.send(
            "GET", f"{server.url}/asked?api_key={ODD}&access_token={ODD}", headers=SECRET_HEADERS
        )

    assert ODD.encode() in getattr(response, "content", getattr(response, "body", b""))
    hide(exported(memory, said))
    captured = {
        name: value
        for name, value in memory.attempt().attributes.items()
        if name.startswith("http.response.header")
    }
    assert captured  # they are there, without it


CREDENTIALS = {
    "Authorization": ("Bearer {}", "Bearer Bearer {}", "Token {}", "{}"),
    "X-Api-Key": ("{}",),
    "Api-Key": ("{}",),
}
"""The headers that may hold a key of the API's or of a gateway's, and how it stands in them."""

QUOTES = ("req_{}", "{}", "req_{}a", "req_0{}", "chatcmpl-{}", "{} {}")
"""How an id may quote it: with the form of the API's own ids, and without."""

LOWER = "q7zk41vttxwm93bd"  # it looks like any id


FORMS = [(header, form) for header, forms in CREDENTIALS.items() for form in forms]
STATUSES = (200, 201, 302, 401, 429, 500)
SHARE = 3
"""In a short run each form meets each quote with every third status, and so with two of the six."""


@pytest.mark.sampled
@pytest.mark.parametrize("status", STATUSES)
def test_a_request_id_that_quotes_the_request_s_own_key_is_shown_without_it(
    memory, said, anyone, status
):
    places = [
        (header, form, quote)
        for (row, (header, form)), (column, quote) in itertools.product(
            enumerate(FORMS), enumerate(QUOTES)
        )
        if SIZE > 1 or (row + column + STATUSES.index(status)) % SHARE == 0
    ]
    assert {header for header, _, _ in places} == CREDENTIALS.keys()
    assert {quote for _, _, quote in places} == set(QUOTES)
    with RawServer() as server, watching(server, memory):
        for header, form, quote in places:
            quoted = quote.format(LOWER, LOWER)
            head = f"HTTP/1.1 {status} So\r\nX-Request-ID: {quoted}\r\nContent-Length: 2"
            server.answer = f"{head}\r\n\r\n{{}}".encode(), False
            anyone.send("GET", f"{server.url}/asked", headers={header: form.format(LOWER)})

    told = exported(memory, said)
    assert LOWER not in told
    assert "req_REDACTED" in told  # the rest of the id is there


ERROR = {
    "error": {
        "type": f"t_{LOWER}", "code": f"c_{LOWER}", "param": f"p_{LOWER}", "message": f"No {LOWER}!"
    }
}  # fmt: skip
SHOWN = ("t_REDACTED", "c_REDACTED", "p_REDACTED", "No REDACTED!")
ERRORS = {
    "an answer": ("401 No\r\nContent-Type: application/json", json.dumps(ERROR)),
    "an event": ("200 OK\r\nContent-Type: text/event-stream", f"data: {json.dumps(ERROR)}\n\n"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_that_quotes_the_request_s_own_key_is_shown_without_it(
    watch, memory, said, anyone, kind
):
    head, body = ERRORS[kind]
    head += f"\r\nX-Request-ID: req_1\r\nContent-Length: {len(body)}"
    with RawServer() as server, watch(memory, server.url):
        server.answer = server.usual = f"HTTP/1.1 {head}\r\n\r\n{body}".encode(), False
        for header, form in FORMS:
            anyone.send("GET", f"{server.url}/asked", headers={header: form.format(LOWER)})

    told = exported(memory, said)
    assert LOWER not in told
    for value in SHOWN:
        assert value in told


def test_an_error_in_place_of_a_result_is_shown_without_the_request_s_own_key(
    watch, memory, said, api
):
    api.answers(status=200, json=ERROR)
    with (
        watch(memory, api.url),
        openai.OpenAI(base_url=api.url, api_key=LOWER, max_retries=0) as client,
    ):
        client.chat.completions.create(**CHAT)

    told = exported(memory, said)
    assert LOWER not in told
    for value in SHOWN:
        assert value in told


ANSWER = {
    "id": f"chatcmpl-{LOWER}", "object": "chat.completion", "created": 1, "model": f"m-{LOWER}",
    "choices": [{"index": 0, "finish_reason": f"x{LOWER}",
                 "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}  # fmt: skip
EVENT = {**ANSWER, "object": "chat.completion.chunk"}
EVENT["choices"] = [{**ANSWER["choices"][0], "delta": {"content": "Hi"}}]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}


def streamed_with_httpx(api, _client):
    with httpx.stream(
        "POST", f"{api.url}/chat/completions", headers={"Authorization": f"Bearer {LOWER}"}
    ) as response:
        response.read()


ASKS = {
    "plain": lambda _, client: client.chat.completions.create(**CHAT),
    "raw": lambda _, client: client.chat.completions.with_raw_response.create(**CHAT).parse(),
    "a raw answer": lambda _, client: client.chat.completions.with_raw_response.create(**CHAT),
    "a stream": lambda _, client: list(client.chat.completions.create(**CHAT, stream=True)),
    "a stream of no SDK": streamed_with_httpx,
}


@pytest.mark.parametrize("name", ASKS)
def test_an_answer_that_quotes_the_request_s_own_key_is_shown_without_it(memory, said, api, name):
    if "stream" in name:
        body = f"data: {json.dumps(EVENT)}\n\ndata: [DONE]\n\n"
        api.answers(status=200, body=body, content_type="text/event-stream")
    else:
        api.answers(status=200, json=ANSWER)

    with (
        assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ) as telemetry,
        openai.OpenAI(base_url=api.url, api_key=LOWER, max_retries=0) as client,
    ):
        ASKS[name](api, client)
        telemetry.flush(5)

    told = exported(memory, said)
    assert LOWER not in told
    for value in ("chatcmpl-REDACTED", "m-REDACTED", "xREDACTED"):
        assert value in told
    tokens = [span.attributes.get("gen_ai.usage.input_tokens") for span in memory.spans()]
    assert 3 in tokens


@pytest.mark.parametrize("caller", CALLERS, ids=str)
def test_a_password_in_a_url_is_nowhere(watch, memory, said, api, caller):
    api.answers("invalid_api_key")
    url = api.url.replace("//", f"//user:{ODD}@")

    with watch(memory, api.url):
        caller.send("GET", f"{url}/models")

    assert len(memory.attempts()) == 1
    hide(exported(memory, said))


# -- exceptions ----------------------------------------------------------------------------------


async def _aiohttp(url, proxy):
    async with aiohttp.ClientSession() as session, session.get(url, proxy=proxy):
        pass


def by_aiohttp(url, proxy):
    asyncio.run(_aiohttp(url, proxy))


def by_httpx(url, proxy):
    with httpx.Client(proxy=proxy, trust_env=False) as client:
        client.get(url)


def by_requests(url, proxy):
    with requests.Session() as session:
        session.trust_env = False
        session.get(url, proxies={"http": proxy, "https": proxy})


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"nonsense"])
@pytest.mark.parametrize("ask", [by_httpx, by_requests, by_aiohttp])
def test_a_proxy_s_password_is_nowhere(watch, memory, said, ask, answer, scheme):
    errors = []
    with RawServer() as server, watch(memory, "gw.example"):
        server.answer = server.usual = answer, True
        proxy = server.url.removesuffix("/v1").replace("//", f"//user:{ODD}@")
        try:
            ask(f"{scheme}://gw.example/v1/asked?api_key={ODD}", proxy)
        except Exception as error:  # noqa: BLE001 - each client's own
            errors = [assisters_otel.explain(error)]

    assert memory.spans()
    hide(exported(memory, said, *errors))


@pytest.mark.parametrize("key", [f"{ODD}\n", f"Bearer {ODD}\nx", f" {KNOWN[0]}\r\n"])
def test_a_header_that_cannot_be_sent_is_nowhere(watch, memory, said, api, anyone, key):
    told = []
    with watch(memory, api.url):
        try:
            anyone.send("GET", f"{api.url}/models", headers={"Authorization": key})
        except Exception as error:  # noqa: BLE001 - each client's own
            told = [assisters_otel.explain(error)]

    hide(exported(memory, said, *told))


@pytest.mark.parametrize("path", ["/models?token={}", "/models?x=%C3%A4&api-key={}&y=1"])
def test_a_query_of_a_request_without_an_answer_is_nowhere(watch, said, anyone, path):
    memory, told = Memory(), []
    with watch(memory, "127.0.0.1:9"):
        try:
            anyone.send("GET", f"http://127.0.0.1:9/v1{path.format(ODD)}")
        except Exception as error:  # noqa: BLE001 - each client's own
            told = [assisters_otel.explain(error)]

    assert memory.attempts()
    hide(exported(memory, said, *told))
    memory.shutdown()
