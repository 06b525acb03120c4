"""Calls of both SDKs in each of their forms, for every version that has them."""

from __future__ import annotations

import gc
import io
import json
import time
from typing import TYPE_CHECKING, Any

import pydantic

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.testing import FakeApi
    from memory import Memory

MODEL = "assisters-chat-v1"
ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "how many words are these"}],
    "max_tokens": 50,
    "temperature": 1,
    "top_p": 0.5,
    "seed": 7,
    "stop": ["told in confidence"],
}
USED = {"stream": True, "stream_options": {"include_usage": True}}
FORMAT = {"response_format": {"type": "json_object"}}
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "error": None,
    "model": MODEL, "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    "usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 4,
              "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 9},
}  # fmt: skip
EVENTS = [
    {"type": "response.created", "response": RESPONSE | {"usage": None, "status": "in_progress"}},
    {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0,
     "delta": "Hi", "logprobs": []},
    {"type": "response.completed", "response": RESPONSE},
]  # fmt: skip
COMPLETION = {
    "id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL,
    "choices": [{"index": 0, "text": "Hi", "finish_reason": "length", "logprobs": None}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}  # fmt: skip
IMAGE = {
    "created": 1, "data": [{"b64_json": "aGk="}],
    "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12,
              "input_tokens_details": {"image_tokens": 0, "text_tokens": 5}},
}  # fmt: skip


class _Greeting(pydantic.BaseModel):
    text: str


def _events(api: FakeApi, *events: dict[str, Any]) -> None:
    body = "".join(
        f"event: {one['type']}\ndata: {json.dumps(one | {'sequence_number': n})}\n\n"
        for n, one in enumerate(events)
    )
    api.answers(status=200, body=body, content_type="text/event-stream")


def _streamed(client: Any, **more: Any) -> None:
    for _ in client.chat.completions.create(**ASKED, **USED, **more):
        pass


def _helper(client: Any, _api: Any) -> None:
    options = {"stream_options": {"include_usage": True}}
    chats = client.chat.completions
    chats = chats if hasattr(chats, "stream") else client.beta.chat.completions
    with chats.stream(**ASKED, **options) as stream:
        for _ in stream:
            pass


def _parsed(client: Any, api: FakeApi) -> None:
    message = {"role": "assistant", "content": '{"text": "Hi"}'}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    api.answers(status=200, json={**head, "choices": [choice], "usage": COMPLETION["usage"]})
    chats = client.chat.completions
    chats = chats if hasattr(chats, "parse") else client.beta.chat.completions
    chats.parse(**ASKED, response_format=_Greeting)


def _responses(client: Any, api: FakeApi) -> None:
    api.answers(status=200, json=RESPONSE)
    client.responses.create(model=MODEL, input="x", max_output_tokens=9, temperature=0)


def _streamed_responses(client: Any, api: FakeApi) -> None:
    _events(api, *EVENTS)
    for _ in client.responses.create(model=MODEL, input="x", stream=True):
        pass


def _completions(client: Any, api: FakeApi) -> None:
    api.answers(status=200, json=COMPLETION)
    client.completions.create(model=MODEL, prompt="x", max_tokens=1)


def _completions_of_two_prompts(client: Any, api: FakeApi) -> None:
    (choice,) = COMPLETION["choices"]
    api.answers(status=200, json={**COMPLETION, "choices": [choice, {**choice, "index": 1}]})
    client.completions.create(model=MODEL, prompt=["x", "y"], max_tokens=1)


def _images(client: Any, api: FakeApi) -> None:
    api.answers(status=200, json=IMAGE)
    client.images.generate(model="assisters-image-v1", prompt="x", n=2)


def _transcriptions(client: Any, api: FakeApi) -> None:
    api.answers(status=200, json={"text": "Hi", "usage": {"type": "tokens", "input_tokens": 5,
                                              "output_tokens": 1, "total_tokens": 6}})  # fmt: skip
    client.audio.transcriptions.create(model="w-1", file=("a.wav", b"RIFF"), temperature=0.5)


OF_OPENAI: dict[str, Callable[[Any, Any], object]] = {
    "chat": lambda client, _: client.chat.completions.create(**ASKED, **FORMAT),
    "two choices": lambda client, _: client.chat.completions.create(**ASKED, n=2),
    "top k": lambda client, _: client.chat.completions.create(**ASKED, extra_body={"top_k": 40}),
    "raw": lambda client, _: client.chat.completions.with_raw_response.create(**ASKED).parse(),
    "raw, not parsed": lambda client, _: client.chat.completions.with_raw_response.create(**ASKED),
    "streamed": lambda client, _: _streamed(client),
    "streamed, two choices": lambda client, _: _streamed(client, n=2),
    "raw, streamed": lambda client, _: list(
        client.chat.completions.with_raw_response.create(**ASKED, **USED).parse()
    ),
    "parse": _parsed,
    "stream helper": _helper,
    "responses": _responses,
    "responses, streamed": _streamed_responses,
    "completions": _completions,
    "completions of two prompts": _completions_of_two_prompts,
    "embeddings": lambda client, _: client.embeddings.create(
        model="assisters-embed-v1", input=["one two", "three"], dimensions=3
    ),
    "moderations": lambda client, _: client.moderations.create(model="mod-1", input="x"),
    "images": _images,
    "transcriptions": _transcriptions,
    "speech": lambda client, _: client.audio.speech.create(model="s-1", voice="alloy", input="x"),
    "models": lambda client, _: client.models.list(),
}  # fmt: skip
"""The calls of the `openai` SDK, by what they are."""

SHORT = {"model": MODEL, "messages": ASKED["messages"], "max_tokens": 50, "temperature": 1}
OF_ASSISTERS: dict[str, Callable[[Any], object]] = {
    "chat": lambda client: client.chat.completions.create(**SHORT),
    "streamed": lambda client: list(client.chat.completions.create(**SHORT, stream=True)),
    "embeddings": lambda client: client.embeddings.create(
        model="assisters-embed-v1", input="one two", encoding_format="float"
    ),
    "moderations": lambda client: client.moderations.create(model="mod-1", input="x"),
    "rerank": lambda client: client.rerank(model="r-1", query="x", documents=["a"]),
    "images": lambda client: client.images.generations.create(model="i-1", prompt="x", n=2),
    "transcriptions": lambda client: client.audio.transcriptions.create(
        model="w-1", file=io.BytesIO(b"RIFF")
    ),
    "speech": lambda client: client.audio.speech.create(model="s-1", input="x"),
    "enhance": lambda client: client.audio.enhance(file=io.BytesIO(b"RIFF")),
    "search": lambda client: client.web_search.query(query="x"),
    "translate": lambda client: client.translate(text="x", target_language="de"),
    "agent": lambda client: client.agent.run(query="x"),
    "agent, streamed": lambda client: list(client.agent.stream(query="x")),
    "models": lambda client: client.models.list(),
}
"""The calls of the `assisters` SDK."""


def told_by(memory: Memory, call: Callable[[], object]) -> dict[str, Any]:
    """Make one call, and return the name and the GenAI attributes of its span.

    What differs from call to call, id and time, is replaced by its type.
    """
    memory.clear()
    call()
    end_s = time.monotonic() + 10
    while not memory.calls() and time.monotonic() < end_s:
        gc.collect()  # a raw answer that is dropped ends its call then
        time.sleep(0.01)
    span = memory.call()
    said = {"name": span.name}
    for name, value in sorted(span.attributes.items()):
        short = name.removeprefix("gen_ai.")
        if short != name and short not in {"provider.name", "operation.name", "request.model"}:
            varies = short in {"response.id", "response.time_to_first_chunk"}
            said[short] = type(value).__name__ if varies else value
    return said
