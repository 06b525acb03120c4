"""The answer of each documented endpoint to a valid request, as data.

Source: the endpoint list and the client of the official `assisters` 0.1.0
package; chat, embeddings, models, moderations and images have the shapes that the
`openai` client parses. Where only the endpoint is documented the body is a small
guess, and nothing should rest on it.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from assisters_otel.records import Record
from assisters_otel.testing.answers import EVENTS, JSON, SampleBody, envelope, sent_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.testing.answers import Received

MODELS: Final = tuple(
    f"assisters-{kind}-v1" for kind in ("chat", "code", "vision", "embed", "moderation", "rerank")
)

_CREATED: Final = 1_767_225_600  # 2026-01-01T00:00:00Z: any fixed moment will do
_WORDS: Final = ("Hello", " from", " the", " fake", " API.")
_MAX_CHOICES: Final = 16  # as many as make an answer of ordinary size
_VECTOR: Final = (0.25, -0.5, 0.125)  # exact as 32-bit floats, so base64 gives them back
_AUDIO: Final = b"ID3\x04" + bytes(60)


def _json(value: object, status: int = 200) -> SampleBody:
    return SampleBody(status, JSON, json.dumps(value).encode())


def _events(*values: object) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def _usage(**tokens: int) -> dict[str, int]:
    return {f"{kind}_tokens": count for kind, count in tokens.items()}


def _words(asked: object) -> int:
    """Return the number of words in all texts of what was asked, which stands for its tokens."""
    if isinstance(asked, str):
        return len(asked.split())
    if isinstance(asked, dict):
        asked = [value for name, value in asked.items() if name != "role"]
    return sum(map(_words, asked)) if isinstance(asked, list) else 0


def _id(kind: str, received: Received) -> str:
    """Return an id that is the request's own, so that no two answers look alike."""
    return f"{kind}-{crc32(received.body):08x}"


def _chat(received: Received) -> SampleBody:
    sent = sent_json(received)
    count = sent.get("n")
    numbers = range(count if isinstance(count, int) and 0 < count <= _MAX_CHOICES else 1)
    prompt, completion = _words(sent.get("messages")), len(_WORDS) * len(numbers)
    usage = _usage(prompt=prompt, completion=completion, total=prompt + completion)
    head: dict[str, object] = {
        "id": _id("chatcmpl", received),
        "object": "chat.completion",
        "created": _CREATED,
        "model": sent.get("model", MODELS[0]),
    }
    if sent.get("stream") is True:
        head["object"] = "chat.completion.chunk"
        deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in _WORDS]
        steps: list[tuple[dict[str, object], str | None]] = [(delta, None) for delta in deltas]
        steps.append(({}, "stop"))
        chunks: list[dict[str, object]] = [
            {"choices": [{"index": number, "delta": delta, "finish_reason": reason}]}
            for delta, reason in steps
            for number in numbers
        ]
        options = sent.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage") is True:
            chunks.append({"choices": [], "usage": usage})
        body = _events(*({**head, **chunk} for chunk in chunks))
        return SampleBody(200, EVENTS, body + b"data: [DONE]\n\n")
    message = {"role": "assistant", "content": "".join(_WORDS)}
    choices = [{"index": number, "message": message, "finish_reason": "stop"} for number in numbers]
    return _json({**head, "choices": choices, "usage": usage})


def _embeddings(received: Received) -> SampleBody:
    sent = sent_json(received)
    asked = sent.get("input", "")
    vector: object = _VECTOR
    if sent.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(_VECTOR)}f", *_VECTOR)).decode()
    count = len(asked) if isinstance(asked, list) else 1
    rows = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    model = sent.get("model", "assisters-embed-v1")
    tokens = _words(asked)
    usage = _usage(prompt=tokens, total=tokens)
    return _json({"object": "list", "data": rows, "model": model, "usage": usage})


def _moderate(received: Received) -> SampleBody:
    model = sent_json(received).get("model", "assisters-moderation-v1")
    result = {
        "flagged": False,
        "categories": {"harassment": False, "violence": False},
        "category_scores": {"harassment": 0.01, "violence": 0.01},
    }
    return _json({"id": _id("modr", received), "model": model, "results": [result]})


def _rerank(received: Received) -> SampleBody:
    sent = sent_json(received)
    documents = sent.get("documents")
    count = len(documents) if isinstance(documents, list) else 1
    results = [{"index": index, "relevance_score": 1 / (1 + index)} for index in range(count)]
    return _json({"model": sent.get("model", "assisters-rerank-v1"), "results": results})


def _search(received: Received) -> SampleBody:
    result = {
        "title": "Example",
        "url": "https://example.com/",
        "snippet": "An example.",
        "domain": "example.com",
        "score": 0.9,
    }
    return _json(
        {
            "query": sent_json(received).get("query", ""),
            "results": [result],
            "related_queries": [],
            "usage": {"searches": 1},
            "cost": 0.002,
        }
    )


def _translate(received: Received) -> SampleBody:
    language = sent_json(received).get("target_language", "de")
    return _json({"translated_text": "Hallo.", "target_language": language})


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "assisters"}


def _one_model(received: Received) -> SampleBody:
    name = received.path.partition("/models/")[2]
    if name in MODELS:
        return _json(_model(name))
    return _error(404, f"There is no model {name}.")


def _agent_stream(_: Received) -> SampleBody:
    # No [DONE]: how an agent's stream ends is not documented.
    return SampleBody(200, EVENTS, _events({"type": "step", "cycle": 1}, {"type": "answer"}))


def _always(content: SampleBody) -> Callable[[Received], SampleBody]:
    return lambda _: content


def _error(status: int, message: str) -> SampleBody:
    return SampleBody(status, JSON, envelope(status, message=message))


def unknown_path(received: Received) -> SampleBody:
    """Answer a path that is not documented."""
    return _error(404, f"There is no {received.path} here.")


def wrong_method(received: Received) -> SampleBody:
    """Answer a documented path that was asked with another method."""
    return _error(405, f"{received.path} does not take {received.method}.")


class Endpoint(Record):
    """One documented endpoint: ``path`` below ``/v1``, ``sample`` its answer to a request."""

    method: str
    path: str
    sample: Callable[[Received], SampleBody]


_AUDIO_FILE: Final = _always(SampleBody(200, "audio/mpeg", _AUDIO))
_IMAGE: Final = {"created": _CREATED, "data": [{"url": "https://example.com/image.png"}]}
_MODEL_LIST: Final = {"object": "list", "data": [_model(name) for name in MODELS]}
_WINDOW: Final = {"rpm": {"limit": 1000, "remaining": 999}, "tpm": {"limit": 100_000}}
_BALANCE: Final = {"balance": 12.5, "currency": "USD"}

ENDPOINTS: Final = (
    Endpoint("POST", "/chat/completions", _chat),
    Endpoint("POST", "/embeddings", _embeddings),
    Endpoint("POST", "/moderate", _moderate),
    Endpoint("POST", "/moderations", _moderate),
    Endpoint("POST", "/rerank", _rerank),
    Endpoint("POST", "/audio/transcriptions", _always(_json({"text": "Hello."}))),
    Endpoint("POST", "/audio/speech", _AUDIO_FILE),
    Endpoint("POST", "/audio/enhance", _AUDIO_FILE),
    Endpoint("POST", "/images/generations", _always(_json(_IMAGE))),
    Endpoint("POST", "/search", _search),
    Endpoint("POST", "/translate", _translate),
    Endpoint("POST", "/agent/run", _always(_json({"answer": "Hello.", "cycles": 1}))),
    Endpoint("GET", "/agent/stream", _agent_stream),
    Endpoint("GET", "/models", _always(_json(_MODEL_LIST))),
    Endpoint("GET", "/models/{id:path}", _one_model),
    Endpoint("GET", "/rate-limit", _always(_json(_WINDOW))),
    Endpoint("GET", "/wallet/balance", _always(_json(_BALANCE))),
    Endpoint("GET", "/wallet/transactions", _always(_json({"data": []}))),
    Endpoint("POST", "/wallet/top-up", _always(_json(_BALANCE))),
)
