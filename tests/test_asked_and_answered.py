"""What a call asks for and what its answer says, read from bytes, objects and events."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assisters_otel.api import answer, endpoints, last_events, raw_answer
from assisters_otel.api.event_stream import MAX_BYTES, EventStreamScanner
from assisters_otel.api.gen_ai_request import request_attributes
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TOKENS = {
    "gen_ai.usage.input_tokens": 9,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.cache_read.input_tokens": 3,
    "gen_ai.usage.reasoning.output_tokens": 2,
}
SAID = {
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.model": "m-1",
    "gen_ai.response.finish_reasons": ("stop",),
    **TOKENS,
}


def chat(*reasons, text="Hi", usage=USAGE, **more):
    message = {"role": "assistant", "content": text}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        for index, reason in enumerate(reasons)
    ]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-1"}
    return {**head, "choices": choices, "usage": usage, **more}


# -- asked for -------------------------------------------------------------------------------------

ASKED = {
    "stream": (True, "gen_ai.request.stream", True),
    "max_tokens": (10, "gen_ai.request.max_tokens", 10),
    "max_completion_tokens": (10, "gen_ai.request.max_tokens", 10),
    "max_output_tokens": (10, "gen_ai.request.max_tokens", 10),
    "temperature": (1, "gen_ai.request.temperature", 1.0),
    "top_p": (0.5, "gen_ai.request.top_p", 0.5),
    "top_k": (40, "gen_ai.request.top_k", 40.0),
    "frequency_penalty": (-1.5, "gen_ai.request.frequency_penalty", -1.5),
    "presence_penalty": (0, "gen_ai.request.presence_penalty", 0.0),
    "seed": (-7, "gen_ai.request.seed", -7),
    "n": (3, "gen_ai.request.choice.count", 3),
    "dimensions": (256, "gen_ai.embeddings.dimension.count", 256),
    "encoding_format": ("float", "gen_ai.request.encoding_formats", ("float",)),
    "response_format": ({"type": "json_schema"}, "gen_ai.output.type", "json"),
    "text": ({"format": {"type": "text"}}, "gen_ai.output.type", "text"),
}
TYPES = {"boolean": bool, "int": int, "double": float, "string": str, "string[]": tuple}
"""The types of the table, as Python has them."""


@pytest.mark.parametrize("name", ASKED)
def test_a_number_or_closed_word_is_an_attribute_of_its_type(name):
    value, attribute, expected = ASKED[name]
    row = next(row for row in gen_ai.REQUEST_ATTRIBUTES if row.name == attribute)

    found = request_attributes(gen_ai.CHAT, {"model": "m", name: value})

    assert found == {attribute: expected}
    assert type(found[attribute]) is TYPES[row.type]


def test_every_attribute_of_a_request_can_be_asked_for():
    assert {attribute for _, attribute, _ in ASKED.values()} == {
        row.name for row in gen_ai.REQUEST_ATTRIBUTES
    }


@pytest.mark.parametrize(
    "asked",
    [
        *({name: value} for name in ASKED for value in ("a person's text", None, [1], {"a": 1})),
        *({name: True} for name in ASKED if name != "stream"),
        {"stream": False}, {"n": 1}, {"seed": 2**63}, {"temperature": math.nan},
        {"temperature": math.inf}, {"top_p": 10**400}, {"encoding_format": "told in confidence"},
        {"response_format": {"type": "told in confidence"}}, {"response_format": {"type": [1]}},
        {"stop": ["told in confidence"]}, {"messages": [{"content": "told in confidence"}]},
        {"instructions": "x", "prompt": "x", "input": "x", "user": "x", "metadata": {"n": 3}},
    ],
)  # fmt: skip
def test_nothing_else_that_is_asked_for_is_an_attribute(asked):
    assert request_attributes(gen_ai.CHAT, asked) == {}


def test_an_endpoint_without_an_operation_has_no_attributes_of_a_request():
    assert request_attributes(None, {"max_tokens": 10}) == {}


@pytest.mark.parametrize(
    ("operation", "output"), [(gen_ai.IMAGE_GENERATION, "image"), (gen_ai.SPEECH, "speech")]
)
def test_images_and_speech_are_asked_for_by_their_endpoint(operation, output):
    asked = request_attributes(operation, {"response_format": "told in confidence"})

    assert asked == {"gen_ai.output.type": output}


def test_every_documented_path_but_models_limits_and_wallet_has_an_operation():
    without = {path.split("/")[2] for path in endpoints.TEMPLATES - endpoints.OPERATIONS.keys()}

    assert without == {"models", "rate-limit", "wallet"}
    assert endpoints.TEMPLATES.issuperset(endpoints.OPERATIONS)


# -- answered --------------------------------------------------------------------------------------


def as_objects(value):
    """What `openai` makes of JSON: objects with attributes."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_objects(one) for name, one in value.items()})
    return [as_objects(one) for one in value] if isinstance(value, list) else value


RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "error": None,
    "model": "m-1", "output": [{"type": "message", "id": "msg_1", "status": "completed"}],
    "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 5,
              "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 14},
    "user": None, "metadata": {},
}  # fmt: skip
ANSWERS = {
    "chat": (chat("stop"), SAID),
    "choices": (chat("stop", "length"), SAID | {
        "gen_ai.response.finish_reasons": ("stop", "length")}),
    "unfinished": (chat(None, usage=None), {
        "gen_ai.response.id": "chatcmpl-1", "gen_ai.response.model": "m-1"}),
    "responses": (RESPONSE, SAID | {"gen_ai.response.id": "resp_1"}),
    "embeddings": (
        {"object": "list", "data": [{"embedding": [0.5] * 500}], "model": "m-1",
         "usage": {"prompt_tokens": 9, "total_tokens": 9}},
        {"gen_ai.response.model": "m-1", "gen_ai.usage.input_tokens": 9}),
    "images": (
        {"created": 1, "data": [{"b64_json": "x" * 500}],
         "usage": {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}},
        {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 5}),
    "moderations": (
        {"id": "modr-1", "model": "m-1", "results": [{"flagged": False}]},
        {"gen_ai.response.id": "modr-1", "gen_ai.response.model": "m-1"}),
    "searches": ({"query": "x", "usage": {"searches": 1}, "cost": 0.002}, None),
    "odd tokens": (
        {"id": 5, "model": ["m"], "choices": "none",
         "usage": {"prompt_tokens": -1, "completion_tokens": True, "input_tokens": 2**63}}, None),
    "an error": ({"error": {"message": "no"}}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("read", [answer.of_result, lambda one: answer.of_result(as_objects(one))])
def test_an_answer_s_record_is_read_from_what_an_sdk_has_parsed(name, read):
    document, expected = ANSWERS[name]

    found = read(document)

    assert (found and found.attributes) == expected
    if expected:
        assert found.model == expected.get("gen_ai.response.model")


def test_of_many_choices_sixteen_have_their_reasons():
    reasons = ["stop"] * 16 + ["length"]
    kept = {
        "objects": answer.of_result(as_objects(chat(*reasons))),
        "a dictionary": answer.of_result(chat(*reasons)),
        "bytes": raw_answer.of_content(json.dumps(chat(*reasons)).encode()),
        "many bytes": raw_answer.of_content(json.dumps(chat(*reasons, text=LONG)).encode()),
        "an event": last_of(chunk(*enumerate(reasons)), DONE).answer,
    }

    told = {how: one.attributes["gen_ai.response.finish_reasons"] for how, one in kept.items()}
    first = ("stop",) * 16
    assert told == dict.fromkeys(kept, first)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_s_record_is_the_same_in_its_bytes(name, indent):
    document, expected = ANSWERS[name]

    found = raw_answer.of_content(json.dumps(document, indent=indent).encode())

    assert (found and found.attributes) == expected


LONG = "x" * (MAX_BYTES + 1)
INSTRUCTIONS = 'Answer as {"usage": "json"}, [as you like], with \\ and \n. ' * 30
INCOMPLETE = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
RAW = {
    "sorted keys": (dict(sorted(chat("stop").items())), SAID),
    "escaped slashes": (chat("stop", model="of/one"), SAID | {"gen_ai.response.model": "of/one"}),
    "two choices": (
        chat("length", "stop"), SAID | {"gen_ai.response.finish_reasons": ("length", "stop")}),
    "instructions": ({"instructions": INSTRUCTIONS} | RESPONSE, SAID | {
        "gen_ai.response.id": "resp_1"}),
    "long instructions": ({"instructions": INSTRUCTIONS * 35} | RESPONSE, SAID | {
        "gen_ai.response.id": "resp_1"}),
    "incomplete": (INCOMPLETE | RESPONSE | INCOMPLETE, SAID | {
        "gen_ai.response.id": "resp_1", "gen_ai.response.finish_reasons": ("length",)}),
    "failed": (
        {"error": {"code": "server_error", "message": "boo"}} | RESPONSE | {"status": "failed"},
        SAID | {"gen_ai.response.id": "resp_1", "gen_ai.response.finish_reasons": ("error",)}),
    "metadata": (RESPONSE | {"metadata": {"usage": "billing-7", "model": "a", "id": "b"}}, SAID | {
        "gen_ai.response.id": "resp_1"}),
}  # fmt: skip


def lengthened(document):
    """The same answer, too long to be parsed as a whole."""
    if "choices" in document:
        choices = [
            choice | {"message": {"content": LONG}, "finish_reason": choice["finish_reason"]}
            for choice in document["choices"]
        ]
        return document | {"choices": choices}
    return document | {"output": [{"type": "message", "id": "msg_1", "content": LONG}]}


@pytest.mark.parametrize("change", [lambda one: one, lengthened], ids=["short", "long"])
@pytest.mark.parametrize("name", RAW)
def test_a_raw_answer_says_what_the_same_one_says_parsed(name, change):
    document, expected = RAW[name]
    content = json.dumps(change(document)).replace("/", "\\/").encode()

    found = raw_answer.of_content(content)

    assert found == answer.of_result(change(document))
    assert found.attributes == expected


def test_a_raw_answer_that_is_cut_short_by_what_is_not_found_has_no_reason():
    content = json.dumps(lengthened(RESPONSE) | INCOMPLETE).encode()  # named behind the output

    assert "gen_ai.response.finish_reasons" not in raw_answer.of_content(content).attributes


UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
"""A machine that does much else at the same time is no fault."""

TRICKS = st.sampled_from(
    ['"usage": {"prompt_tokens": 1}', '"finish_reason": "bad"', '"id": "no"', '"model":"no"', "\\"]
)


@UNHURRIED
@given(
    st.lists(TRICKS | st.text(max_size=20), max_size=6).map(" ".join),
    st.lists(st.sampled_from(["stop", "length"]), min_size=1, max_size=4),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_text_of_the_model_is_never_taken_for_a_member(text, reasons, indent, is_ascii):
    for document in (chat(*reasons, text=text), chat(*reasons, text=text + LONG + text)):
        told = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
        content = told.encode("utf-8", "replace")

        assert raw_answer.of_content(content) == answer.of_result(document)


def test_the_usage_of_a_long_body_is_found_at_its_end():
    content = json.dumps(chat("stop", text="x" * 5 * MAX_BYTES)).encode()

    assert raw_answer.of_content(content).attributes == SAID


def test_a_usage_with_which_the_end_begins_is_found():
    content = json.dumps(chat("stop", text="x" * 5 * MAX_BYTES)).encode()
    behind = len(content) - content.rindex(b'"usage"')
    content = content.removesuffix(b"}") + b" " * (MAX_BYTES - behind) + b"}"
    assert content[-MAX_BYTES:].startswith(b'"usage"')

    assert raw_answer.of_content(content).attributes == SAID


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*chat("stop"), *USAGE]), inner)
    ),
    max_leaves=20,
)


@UNHURRIED
@given(JSON_VALUES)
def test_no_answer_raises(document):
    content = json.dumps(document).encode()
    for found in (
        answer.of_result(document),
        raw_answer.of_content(content),
        last_events.of_events((content, content)).answer,
    ):
        for value in (found.attributes if found else {}).values():
            assert isinstance(value, str | int | tuple)
    request_attributes(gen_ai.CHAT, document if isinstance(document, dict) else {})


@UNHURRIED
@given(st.binary())
def test_no_bytes_raise(content):
    raw_answer.of_content(b"{" + content)
    raw_answer.of_content(b'{"choices": [' + content + b'"usage": {')


def test_an_answer_s_texts_are_cleaned():
    found = answer.of_result(chat("ask_live_0123456789abcdef", id="a\0b\ud800", model="m" * 500))

    assert found.attributes["gen_ai.response.finish_reasons"] == ("REDACTED",)
    assert found.attributes["gen_ai.response.id"].encode()
    assert len(found.model) == 128


# -- the events of a stream ------------------------------------------------------------------------


def event(**data):
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(*reasons, **more):
    choices = [{"index": index, "delta": {}, "finish_reason": reason} for index, reason in reasons]
    return event(id="chatcmpl-1", model="m-1", choices=choices, **more)


def last_of(*events, size=None):
    scanner = EventStreamScanner()
    body = b"".join(events)
    chunks = events if size is None else [body[at : at + size] for at in range(0, len(body), size)]
    for one in chunks:
        if not scanner.skip_plain_event(one):
            scanner.feed(one)
    scanner.finish()
    return scanner.last


STREAM = (chunk((0, None)), chunk((0, None)), chunk((0, "stop")), chunk(usage=USAGE))
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [None, 1, 7, 50, 10_000])
def test_the_last_two_events_have_the_finish_reason_and_the_usage(size):
    last = last_of(*STREAM, DONE, size=size)

    assert last.answer.attributes == SAID
    assert last.is_finished


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (STREAM[:3], True),
        ((*STREAM[:3], event(id="x", choices=[])), True),
        ((*STREAM[:3], event(choices=[]), event(choices=[])), False),
        (STREAM[:2], False),
        (
            (
                chunk(
                    (0, ""),
                ),
            ),
            False,
        ),
        ((chunk((0, "stop"), (1, "stop")),), False),
        ((chunk((0, "stop")), chunk((1, "stop"))), False),
        ((event(choices="stop"),), False),
        ((), False),
    ],
)
def test_a_stream_of_one_choice_is_finished_by_its_reason(events, expected):
    assert last_of(*events).is_finished is expected


def test_no_more_than_the_last_two_events_and_64_kib_are_kept():
    scanner = EventStreamScanner()
    for size in (100, 20_000, 60_000, 40_000, 40_000, 100, 70_000, 100, 15_000, 15_000):
        one = event(text="x" * size)
        if not scanner.skip_plain_event(one):
            scanner.feed(one)
        assert len(scanner._previous) + len(scanner._last) <= MAX_BYTES


def responses(*kinds, **more):
    """Events of `responses`, as `openai` gets them."""
    return [
        f"event: {kind}\n".encode() + event(type=kind, sequence_number=n, **more.get(kind[9:], {}))
        for n, kind in enumerate(kinds)
    ]


DELTA = "response.output_text.delta"


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ("completed", {"status": "completed"}, "stop"),
        ("incomplete", {"status": "incomplete",
                        "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("failed", {"status": "failed", "error": {"code": "server_error"}}, "error"),
    ],
)  # fmt: skip
def test_the_last_event_of_responses_has_the_whole_answer(end, status, reason):
    whole = {end: {"response": RESPONSE | status}}
    last = last_of(*responses("response.created", DELTA, f"response.{end}", **whole))

    assert last.responses_end == end
    assert not last.is_finished
    assert last.answer.attributes == SAID | {
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.finish_reasons": (reason,),
    }


def test_the_table_of_an_answer_s_attributes_is_complete():
    found = {*SAID, gen_ai.RESPONSE_MODEL}

    assert found == {row.name for row in gen_ai.RESPONSE_ATTRIBUTES}
    named = {row.name for row in names.CALL_ATTRIBUTES}
    assert named.issuperset(found)


@pytest.mark.parametrize("size", [None, 50, 10_000])
@pytest.mark.parametrize("length", [10_000, 47_000, 50_000, 64_000, 66_000, 200_000])
@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_an_end_of_responses_is_an_end_however_long_it_is(size, length, is_named, end):
    used = {"input_tokens": 9, "output_tokens": 5}
    first = {"id": "resp_1", "object": "response", "status": end, "instructions": "x" * length}
    whole = event(type=f"response.{end}", response=first | {"usage": used, "metadata": {}})
    if is_named:
        whole = f"event: response.{end}\n".encode() + whole
    before = event(type="response.output_text.delta", delta="Hi")

    last = last_of(before, whole, size=size)

    assert last.responses_end == end
    assert last.answer.attributes["gen_ai.usage.input_tokens"] == 9
    assert last.answer.attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("indices", [(1,), (2,), (1, 2)])
def test_the_reasons_of_some_choices_of_a_stream_are_not_said(indices):
    last = last_of(
        chunk((0, "stop")), chunk((1, "stop")), chunk(*((one, "length") for one in indices)),
        chunk(usage=USAGE), DONE,
    )  # fmt: skip

    assert last.answer.attributes == {
        name: value for name, value in SAID.items() if "finish_reasons" not in name
    }


@pytest.mark.parametrize("end", [b"[" * 4000, b'"\\ud800"', b"NaN", b"[1, {}", b""])
def test_a_long_end_with_any_usage_is_an_end(end):
    whole = b'data: {"type": "response.completed", "x": "%s", "usage": %s}\n\n'

    assert last_of(whole % (b"x" * 70_000, end)).responses_end == "completed"
