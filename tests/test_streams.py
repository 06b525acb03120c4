from __future__ import annotations

import gzip
import itertools
import json
import os
import time
import zlib
from typing import NamedTuple

import brotli
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from assisters_otel.api import body_end
from assisters_otel.api.body_end import BodyEnd
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.event_stream import MAX_BYTES, EventStreamScanner
from assisters_otel.api.headers import is_delimited, is_event_stream, known_headers
from assisters_otel.semconv import attributes as names

CHAT = "/v1/chat/completions"
TEXT = b'data: {"choices": []}\n\n'
DONE = TEXT + b"data: [DONE]\n\n"
ENVELOPE = {
    "error": {
        "message": "m",
        "type": "server_error",
        "code": "model_overloaded",
        "param": "model",
    }
}
ERROR = json.dumps(ENVELOPE).encode()
READ = Envelope("server_error", "model_overloaded", "model", "m")


def stream_outcome(watched, way, template, *, is_delimited=True):
    return body_end.stream_outcome(watched, way, template, is_delimited=is_delimited)


class Said(NamedTuple):
    chunks: int
    done: bool
    error: Envelope | None


def said(*chunks, encoding=b""):
    """What a stream says that comes in these chunks, by the quick way where it may be."""
    watched = EventStreamScanner(encoding)
    for chunk in chunks:
        if not watched.skip_plain_event(chunk):
            watched.feed(chunk)
    watched.finish()
    return Said(watched.chunks, watched.done, watched.error)


def slowly(body):
    """The same by a parser that is written from the standard, and slow."""
    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events, event = [], {"data": []}
    for line in [*lines, *filter(None, [rest]), None]:
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                event["data"].append(value)
            event["event"] = value if field == "event" else event.get("event")
        elif line == "" or event["data"]:
            events.append(event | {"is_whole": line == ""})
            event = {"data": []}
    data = [
        (done_or("\n".join(event["data"])), event.get("event"), event["is_whole"])
        for event in events
        if event["data"]
    ]
    end = next((at for at, (text, *_) in enumerate(data, 1) if text == "[DONE]"), None)
    del data[end or len(data) :]
    errors = [error_in(text, name) for text, name, _ in data if text != "[DONE]"]
    return Said(
        sum(whole and text != "[DONE]" for text, _, whole in data),
        any(text == "[DONE]" for text, _, _ in data),
        next((error for error in errors if error is not None), None),
    )


def done_or(text):
    return "[DONE]" if text.rstrip(" \t") == "[DONE]" else text


def error_in(text, name):
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    found = value.get("error") if isinstance(value, dict) else None
    if isinstance(found, str) and found:
        return Envelope(message=found)
    if isinstance(found, dict) and found:
        return Envelope(**{key: found.get(key) for key in ("type", "code", "param", "message")})
    return Envelope() if found or name == "error" else None


def cut(body, cuts):
    edges = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


# -- what is an event ------------------------------------------------------------------------

ALPHABET = st.sampled_from(
    [
        *(b"data: {", b"data:", b"data", b"event: error", b"event:error", b": comment", b"id: 1"),
        *(
            b"}",
            b"[DONE]",
            b"data: [DONE]",
            b"x",
            b" ",
            b"\xef\xbb\xbf",
            b"\xff",
            b'{"error": null}',
        ),
        *(b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\r\r"),
        *(
            TEXT,
            b"data: " + ERROR + b"\n\n",
            b'data: {"error": {}}\n\n',
            b'data: {"error": "no"}\n\n',
        ),
    ]
)


@given(st.lists(ALPHABET, max_size=20).map(b"".join), st.lists(st.integers(0), max_size=8))
@example(DONE, [])
@example(b"data: [DONE] ", [])
@example(b"data: [DONE]\ndata:\n\n", [])
@example(b"data: {\xef\xbb\xbf}\r\r", [9])
@example(b"\n\xef\xbb\xbfdata: {\r\n\r\n", [])
def test_whatever_comes_in_whatever_pieces_is_read_as_the_standard_says(body, cuts):
    assert said(*cut(body, cuts)) == slowly(body)


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + ERROR + b"\n\n",
        b"data:" + ERROR + b"\n\n",
        b"event: error\ndata: " + ERROR + b"\n\n",
        b"data: " + ERROR + b"\r\n\r\n",
        b"data: " + ERROR + b"\r\r",
        b": comment\n\nid: 7\nretry: 3\ndata: " + ERROR + b"\n\n",
        b"data: " + ERROR.replace(b", ", b",\ndata: ") + b"\n\n",
        b"\xef\xbb\xbfdata: " + ERROR + b"\n\n",
        TEXT + b"data: " + ERROR + b"\n\n" + TEXT,
        b"data: " + ERROR,
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_an_error_event_is_read_in_every_form_wherever_it_is_cut(body, size):
    assert said(*(body[i : i + size] for i in range(0, len(body), size))).error == READ


@pytest.mark.parametrize("at", range(len(DONE)))
def test_done_is_seen_wherever_it_is_cut(at):
    assert said(DONE[:at], DONE[at:]) == (1, True, None)


@pytest.mark.parametrize(
    "body",
    [
        b"data: [DONE]",
        b"data:[DONE]\r\n\r\n",
        b": hi\rdata: [DONE]\r\r",
        b"\r\ndata: [DONE]\r\n",
        b"data: [DONE] \n\n",
    ],
)
def test_done_is_seen_by_its_line_alone(body):
    assert said(body).done


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'data: {"content": "data: [DONE]"}\n\n',
        b'data: {"content": "\\ndata: [DONE]"}\n\n',
        b"data: [DON",
        b"other: [DONE]\n\n",
        b"data: [DONE]\ndata: more\n\n",
    ],
)
def test_a_model_that_writes_about_the_end_is_not_done(body):
    assert not said(body).done


@pytest.mark.parametrize(
    "more",
    [
        b"data: " + ERROR + b"\n\n",
        b"event: error\ndata: x\n\n",
        b"data: " + ERROR,
        TEXT,
        DONE,
        b"\n" + TEXT + b"data: " + ERROR + b"\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_what_follows_the_end_is_no_part_of_the_stream(more, size):
    """An SDK stops at the end, so whether it came in the same chunk was seen by us alone."""
    body = DONE + more

    assert said(*(body[i : i + size] for i in range(0, len(body), size))) == (1, True, None)
    assert said(DONE, more) == (1, True, None)


@pytest.mark.parametrize(
    "data",
    [
        {"choices": [{"delta": {"content": json.dumps(ENVELOPE)}}]},
        {"choices": [], "error": None},
        {"choices": [], "error": ""},
        {"choices": [], "error": {}},
        {"choices": [{"error": {"code": "internal_error"}}]},
        ["error"],
        "error",
    ],
)
def test_a_model_that_writes_about_an_error_has_none(data):
    assert said(b"data: " + json.dumps(data).encode() + b"\n\n") == (1, False, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'data: {"error": "plain"}\n\n', Envelope(message="plain")),
        (b'data: {"error": ["odd"]}\n\n', Envelope()),
        (b'data: {"error": {"code": 7}}\n\n', Envelope()),
        (b"event: error\ndata: no JSON\n\n", Envelope()),
        (b'event: error\ndata: {"error": null}\n\n', Envelope()),
        (b"event: error\ndata:\n\n", Envelope()),
        (b'data: {"error": "one"}\n\ndata: {"error": "two"}\n\n', Envelope(message="one")),
    ],
)  # fmt: skip
def test_an_error_that_says_little_is_one(body, error):
    assert said(body).error == error


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"error": {"code": "x"\n\n',  # the documentation's own sample is not valid either
        b'data: {"error": ' + b"[" * 50_000 + b"\n\n",
        b"event: error\n\n",
        b"event: errors\ndata: x\n\n",
    ],
)
def test_what_cannot_be_read_is_no_error(body):
    assert said(body).error is None


def test_the_quick_way_takes_one_whole_event_of_one_line_only():
    watched = EventStreamScanner()
    assert not watched.skip_plain_event(TEXT), "the first may begin with a mark"
    watched.feed(TEXT)

    assert watched.skip_plain_event(TEXT)
    assert watched.skip_plain_event(b'data:{"a": 1}\n\n')
    for odd in (
        *(b"", b"\n", b"data: [DONE]\n\n", b": comment\n\n", b"data: {}\n", b"data: {}\n\n\n"),
        *(
            TEXT + TEXT,
            b"data: {}\ndata: {}\n\n",
            b"data: {}\nevent: error\n\n",
            b"data: {}\r\n\r\n",
        ),
        *(b'data: {"error": null}\n\n', b"data: {}\r\rdata: {}\n\n", b"data: {}\nx"),
    ):
        assert not watched.skip_plain_event(odd), odd
    assert watched.chunks == 3
    watched.feed(b"data: {")
    assert not watched.skip_plain_event(TEXT), "it is the middle of another"


@pytest.mark.parametrize("first", [b": keep-alive\n\n", b"retry: 3000\n\n", b"\n"])
def test_the_first_event_of_data_is_not_taken_the_quick_way_whatever_came_before(first):
    """It is the one whose time is told."""
    watched = EventStreamScanner()
    watched.feed(first)

    assert not watched.skip_plain_event(TEXT)
    watched.feed(TEXT)
    assert watched.skip_plain_event(TEXT)


# -- how much is kept ------------------------------------------------------------------------


def test_a_megabyte_in_one_event_is_counted_and_not_kept():
    watched = EventStreamScanner()
    for chunk in (b"data: {", *[b"x" * 1000] * 1000):
        watched.feed(chunk)
        assert len(watched._line) <= MAX_BYTES
    for chunk in (b'"error": 1}\n\n', TEXT, b"data: " + ERROR + b"\n\n"):
        watched.feed(chunk)

    assert (watched.chunks, watched.error) == (3, READ)


def test_a_megabyte_of_lines_in_one_event_is_not_kept():
    watched = EventStreamScanner()
    for _ in range(20_000):
        watched.feed(b"data: " + b"x" * 44 + b"\n")

    assert sum(map(len, watched._data)) <= MAX_BYTES
    watched.feed(b"\n" + TEXT)
    assert watched.chunks == 2


@pytest.mark.parametrize("room", range(10))
def test_an_event_is_too_long_though_nothing_is_left_of_its_last_line(room):
    line = (b"data: " + ERROR).ljust(MAX_BYTES - room)

    told = said(line + b"\ndata: no JSON\n\n")

    assert (told.chunks, told.error) == (1, READ._replace(message=None))


def test_a_long_comment_hides_nothing():
    assert said(b": " + b"x" * 1_000_000 + b"\ndata: " + ERROR + b"\n\n").error == READ


# -- content encodings -----------------------------------------------------------------------


def bare_deflate(body):
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


ENCODINGS = [
    (b"gzip", gzip.compress),
    (b"X-GZIP", gzip.compress),
    (b"deflate", zlib.compress),
    (b"br", brotli.compress),
    (b"zstd", zstandard.compress),
]


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS)
@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_a_stream_is_read_through_compression(encoding, encode, size):
    body = encode(b"data: " + ERROR + b"\n\n" + DONE)
    pieces = (body[i : i + size] for i in range(0, len(body), size))

    assert said(*pieces, encoding=encoding) == (2, True, READ)


@pytest.mark.parametrize("size", [1, 2, 10_000])
def test_a_deflate_stream_without_a_header_is_read(size):
    body = bare_deflate(DONE)
    pieces = (body[i : i + size] for i in range(0, len(body), size))

    assert said(*pieces, encoding=b"deflate").done


@pytest.mark.parametrize(("encoding", "encode"), [ENCODINGS[0], ENCODINGS[-1]])
@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_a_stream_of_several_members_or_frames_is_read(encoding, encode, size):
    body = encode(b"data: " + ERROR[:5]) + encode(ERROR[5:] + b"\n\n") + encode(DONE)
    pieces = (body[i : i + size] for i in range(0, len(body), size))

    assert said(*pieces, encoding=encoding) == (2, True, READ)


@pytest.mark.parametrize("encoding", [b"identity", b"utf-8", b"none", b"UTF8, identity", b","])
def test_a_stream_whose_encoding_no_client_knows_is_read_as_it_is(encoding):
    assert said(b"data: " + ERROR + b"\n\n" + DONE, encoding=encoding) == (2, True, READ)


@pytest.mark.parametrize(
    ("encoding", "outcome"), [(b"identity", names.TRUNCATED), (b"utf-8", names.COMPLETED)]
)
def test_an_empty_stream_is_truncated_unless_it_may_be_encoded(encoding, outcome):
    watched = EventStreamScanner(encoding)
    watched.feed(b"nothing of the kind")

    assert stream_outcome(watched, BodyEnd.COMPLETE, CHAT) == outcome


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS)
def test_a_stream_that_unpacks_to_much_is_looked_through_piece_by_piece(encoding, encode):
    body = encode(b": " + bytes(10_000_000) + b"\n" + DONE)

    assert said(body, encoding=encoding).done


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS)
@pytest.mark.parametrize("line", [b"\n", b"\r", b"data: x\n\n"])
def test_a_bomb_of_lines_takes_no_time(encoding, encode, line):
    bomb = encode(line * (20_000_000 // len(line)))
    watched = EventStreamScanner(encoding)
    began_s = time.process_time()
    for _ in range(3_000_000):
        pass
    ended_s = time.process_time()
    watched.feed(bomb)
    took_s = time.process_time() - ended_s

    assert watched.is_undecodable
    assert stream_outcome(watched, BodyEnd.COMPLETE, CHAT) == names.COMPLETED
    # A loop that takes as long where nothing measures coverage; it was twenty times that.
    assert took_s < 12 * (ended_s - began_s)


def test_a_bomb_of_one_endless_line_is_given_up_too():
    line = b": " + bytes(10_000_000)  # ten of them are looked through
    watched = EventStreamScanner(b"zstd")

    watched.feed(zstandard.compress(TEXT) + zstandard.compress(line) * 10)
    assert not watched.is_undecodable

    watched.feed(zstandard.compress(line) * 10)
    assert watched.is_undecodable


CHUNK = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":" %d"}}]}\n\n'


def pieces_of(body, size):
    return (body[i : i + size] for i in range(0, len(body), size))


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS)
def test_a_long_compressed_chat_is_no_bomb_however_it_is_cut(encoding, encode):
    body = encode(b"".join(CHUNK % n for n in range(5_000)) + DONE)

    for size in (len(body), 1_000, 10):
        assert said(*pieces_of(body, size), encoding=encoding) == (5_001, True, None)


def test_a_chat_of_more_lines_than_a_bomb_may_have_at_once_is_read_to_its_end():
    body = gzip.compress(b"".join(CHUNK % n for n in range(MAX_BYTES + 1_000)) + DONE, 1)

    assert said(*pieces_of(body, 1_000), encoding=b"gzip") == (MAX_BYTES + 1_001, True, None)


def test_what_a_long_stream_has_saved_is_no_room_for_a_bomb():
    """Its comment has as many bytes compressed as would allow ten times the lines."""
    comment = b": " + os.urandom(4 * MAX_BYTES).hex().encode() + b"\n"
    watched = EventStreamScanner(b"gzip")

    for piece in pieces_of(gzip.compress(TEXT + comment + b"\n" * (3 * MAX_BYTES)), 1_000):
        watched.feed(piece)

    assert watched.is_undecodable


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, br"])
def test_what_cannot_be_unpacked_is_neither_done_nor_truncated(encoding):
    watched = EventStreamScanner(encoding)
    for _ in range(3):
        watched.feed(b"\xffnothing of the kind" + DONE)

    assert watched.is_undecodable
    assert stream_outcome(watched, BodyEnd.COMPLETE, CHAT) == names.COMPLETED
    assert not watched.done


# -- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "way", "template", "expected"),
    [
        (DONE, BodyEnd.COMPLETE, CHAT, "completed"),
        (DONE, BodyEnd.CLOSED, CHAT, "completed"),
        (DONE, BodyEnd.BROKEN, CHAT, "completed"),
        (DONE, BodyEnd.COLLECTED, CHAT, "completed"),
        (TEXT, BodyEnd.COMPLETE, CHAT, "truncated"),
        (b"", BodyEnd.COMPLETE, CHAT, "truncated"),
        (TEXT, BodyEnd.COMPLETE, "/v1/agent/stream", "completed"),
        (TEXT, BodyEnd.COMPLETE, None, "completed"),
        (TEXT, BodyEnd.BROKEN, CHAT, "error"),
        (TEXT, BodyEnd.CLOSED, CHAT, "cancelled"),
        (TEXT, BodyEnd.COLLECTED, CHAT, "abandoned"),
        *((b"data: " + ERROR + b"\n\n" + DONE, way, CHAT, "error")
          for way in (BodyEnd.COMPLETE, BodyEnd.CLOSED, BodyEnd.BROKEN, BodyEnd.COLLECTED)),
        (b"data: " + ERROR + b"\n", BodyEnd.CLOSED, CHAT, "error"),
    ],
)  # fmt: skip
def test_the_first_outcome_that_applies_is_told(body, way, template, expected):
    watched = EventStreamScanner()
    watched.feed(body)

    assert stream_outcome(watched, way, template) == expected


FINISHED = b'data: {"choices": [{"index": 0, "finish_reason": "stop"}]}\n\n'
USED = FINISHED + b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n'


@pytest.mark.parametrize("body", [FINISHED, USED])
@pytest.mark.parametrize(
    ("way", "is_delimited", "expected"),
    [
        (BodyEnd.COMPLETE, True, "completed"),
        (BodyEnd.COMPLETE, False, "truncated"),
        (BodyEnd.BROKEN, True, "error"),
        (BodyEnd.CLOSED, True, "cancelled"),
        (BodyEnd.COLLECTED, True, "abandoned"),
    ],
)
def test_a_chat_without_its_done_is_complete_if_nothing_is_missing(
    body, way, is_delimited, expected
):
    watched = EventStreamScanner()
    watched.feed(body)

    assert stream_outcome(watched, way, CHAT, is_delimited=is_delimited) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"transfer-encoding": b"chunked"}, True),
        ({b"transfer-encoding": b"gzip, Chunked "}, True),
        ({b"content-length": b"7"}, True),
        ({b"transfer-encoding": b"gzip"}, False),
        ({}, False),
    ],
)
def test_the_headers_show_whether_an_end_is_the_end(headers, expected):
    assert is_delimited(known_headers(headers.items())) is expected


RESPONSE_DELTA = (
    b'event: response.output_text.delta\ndata: {"type": "response.output_text.delta"}\n\n'
)
REFUSED = b'{"code": "no_code", "message": "m", "param": null}'


def of_responses(kind, inner=b"{}"):
    return b'event: %s\ndata: {"type": "%s", "response": %s}\n\n' % (kind, kind, inner)


@pytest.mark.parametrize(
    ("end", "way", "expected"),
    [
        *((of_responses(b"response.completed"), way, "completed")
          for way in (BodyEnd.COMPLETE, BodyEnd.CLOSED, BodyEnd.BROKEN, BodyEnd.COLLECTED)),
        (of_responses(b"response.incomplete"), BodyEnd.COMPLETE, "completed"),
        (of_responses(b"response.failed", b'{"error": ' + REFUSED + b"}"), BodyEnd.CLOSED, "error"),
        (of_responses(b"response.failed"), BodyEnd.CLOSED, "error"),
        (b'event: error\ndata: {"type": "error", "code": "no_code", "message": "m"}\n\n',
         BodyEnd.COMPLETE, "error"),
        (b'data: {"type": "error", "code": "no_code", "message": "m"}\n\n',
         BodyEnd.COMPLETE, "error"),
        (RESPONSE_DELTA, BodyEnd.COMPLETE, "truncated"),
        (RESPONSE_DELTA, BodyEnd.CLOSED, "cancelled"),
        (RESPONSE_DELTA, BodyEnd.BROKEN, "error"),
    ],
)  # fmt: skip
def test_a_stream_of_responses_has_ends_of_its_own(end, way, expected):
    watched = EventStreamScanner()
    watched.feed(of_responses(b"response.created", b'{"error": null}') + RESPONSE_DELTA + end)

    assert stream_outcome(watched, way, None) == expected
    if b"no_code" in end:
        assert watched.error == Envelope(code="no_code", message="m")


def test_only_an_event_stream_is_watched():
    assert not is_event_stream({b"content-type": b"application/json"})
    assert not is_event_stream({b"content-type": b"audio/mpeg"})
    assert not is_event_stream({b"content-type": b"text/event-streams"})


@pytest.mark.parametrize(
    "sent_as", [b"text/event-stream; charset=utf-8", b" Text/Event-Stream ;", b"text/event-stream"]
)
def test_an_event_stream_is_watched_whatever_stands_around_its_type(sent_as):
    assert is_event_stream({b"content-type": sent_as})


def test_a_long_error_s_words_are_read_where_its_beginning_was_kept():
    """A message may quote what somebody typed, however long."""
    watched = EventStreamScanner()
    watched.feed(
        b'data: { "error": {"code": "internal_error", "type": "server_error", "message": "'
    )
    watched.feed(b'\\"code\\": \\"no_code\\" ' + b"x" * 2 * MAX_BYTES + b'"}}\n\n')

    assert watched.error == Envelope("server_error", "internal_error")


def test_a_long_event_that_only_quotes_an_error_is_none():
    watched = EventStreamScanner()
    watched.feed(b'data: {"text": "{\\"error\\": {}} ' + b"x" * 2 * MAX_BYTES + b'"}\n\n')

    assert watched.error is None


def test_the_fields_of_a_named_error_may_stand_without_an_envelope():
    watched = EventStreamScanner()
    watched.feed(b'event: error\ndata: {"type": "server_error", "code": "internal_error"}\n\n')

    assert watched.error == Envelope("server_error", "internal_error")
