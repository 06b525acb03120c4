from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assisters_otel.streams import Events, events

DONE = b'data: {"choices": []}\n\ndata: [DONE]\n\n'


def done(*chunks, encoding=b""):
    watched = Events(encoding)
    for chunk in chunks:
        watched.feed(chunk)
    return watched.done


@pytest.mark.parametrize("cut", range(len(DONE)))
def test_done_is_seen_wherever_it_is_cut(cut):
    assert done(DONE[:cut], DONE[cut:])


@given(st.lists(st.integers(0, len(DONE))))
def test_done_is_seen_in_whatever_pieces(cuts):
    edges = [0, *sorted(cuts), len(DONE)]
    pieces = [DONE[a:b] for a, b in itertools.pairwise(edges)]

    assert done(*pieces)


@pytest.mark.parametrize(
    "body",
    [b"data: [DONE]", b"data:[DONE]\r\n\r\n", b": hi\rdata: [DONE]\r\r", b"\r\ndata: [DONE]\r\n"],
)
def test_every_line_break_will_do_and_none_at_the_begin(body):
    assert done(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'data: {"content": "data: [DONE]"}\n\n',
        b'data: {"content": "\\ndata: [DONE]"}\n\n',
        b"data: [DON",
        b"other: [DONE]\n\n",
    ],
)
def test_a_model_that_writes_about_it_is_not_done(body):
    assert not done(body)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [(b"gzip", gzip.compress), (b"X-GZIP", gzip.compress), (b"deflate", zlib.compress)],
)
def test_done_is_seen_through_compression(encoding, encode):
    body = encode(DONE)

    assert done(*(body[i : i + 1] for i in range(len(body))), encoding=encoding)


def test_a_stream_that_unpacks_to_much_is_looked_through_piece_by_piece():
    body = gzip.compress(b": " + bytes(10_000_000) + b"\n" + DONE)

    assert done(body, encoding=b"gzip")


@pytest.mark.parametrize(("encoding", "body"), [(b"gzip", b"no gzip"), (b"br", DONE[3:20])])
def test_what_cannot_be_unpacked_is_not_done(encoding, body):
    assert not done(body, body, encoding=encoding)


def test_only_an_event_stream_is_watched():
    assert events({b"content-type": b"application/json"}) is None
    assert events({b"content-type": b"text/event-stream; charset=utf-8"}) is not None


def test_what_comes_after_done_is_not_looked_at():
    watched = Events(b"")
    watched.feed(DONE)
    watched.feed(b"anything")

    assert watched.done
