"""What each kind of call asks for and is answered: `openai` 1, 2 and 3, and `assisters`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import assisters
import pytest

from gen_ai_calls import OF_ASSISTERS, OF_OPENAI, told_by
from scripts import passed

TESTS = Path(__file__).parents[1]
SCRIPT = """
import json, sys

import openai
import assisters_otel
from assisters_otel.testing import FakeApi
from gen_ai_calls import OF_OPENAI, told_by
from memory import Memory

memory = Memory()
with FakeApi() as api, openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        told = {
            kind: told_by(memory, lambda: call(client, api)) for kind, call in OF_OPENAI.items()
        }
print(openai.__version__)
print(json.dumps(told))
"""

ASKED = {"request.max_tokens": 50, "request.temperature": 1.0, "request.top_p": 0.5,
         "request.seed": 7}  # fmt: skip
CHAT = {"response.id": "str", "response.model": "assisters-chat-v1",
        "response.finish_reasons": ["stop"]}  # fmt: skip
NAMED = {"name": "chat assisters-chat-v1"}
TOKENS = {"usage.input_tokens": 5, "usage.output_tokens": 5}
STREAMED = {"request.stream": True, "response.time_to_first_chunk": "float"}
WHOLE = NAMED | ASKED | CHAT | TOKENS
RESPONSE = NAMED | CHAT | {
    "usage.input_tokens": 5, "usage.output_tokens": 4,
    "usage.cache_read.input_tokens": 3, "usage.reasoning.output_tokens": 2,
}  # fmt: skip
COMPLETED = {"usage.input_tokens": 5, "usage.output_tokens": 1}
TWO = {"request.choice.count": 2, "response.finish_reasons": ["stop", "stop"],
       "usage.output_tokens": 10}  # fmt: skip
LAST_OF_TWO = {name: value for name, value in (WHOLE | TWO).items() if "finish" not in name}
EMBEDDED = {"response.model": "assisters-embed-v1", "usage.input_tokens": 3}
EXPECTED = {
    "chat": WHOLE | {"output.type": "json"},
    "two choices": WHOLE | TWO,
    "top k": WHOLE | {"request.top_k": 40.0},
    "raw": WHOLE,
    "raw, not parsed": WHOLE,
    "streamed": WHOLE | STREAMED,
    # The last two events have the reason of one of them.
    "streamed, two choices": LAST_OF_TWO | STREAMED,
    "raw, streamed": WHOLE | STREAMED,
    "parse": WHOLE | COMPLETED | {"output.type": "json"},
    "stream helper": WHOLE | STREAMED,
    "responses": RESPONSE | {"request.max_tokens": 9, "request.temperature": 0.0},
    "responses, streamed": RESPONSE | STREAMED,
    "completions": CHAT | COMPLETED | {
        "name": "text_completion assisters-chat-v1", "request.max_tokens": 1,
        "response.finish_reasons": ["length"]},
    "completions of two prompts": CHAT | COMPLETED | {
        "name": "text_completion assisters-chat-v1", "request.max_tokens": 1,
        "response.finish_reasons": ["length", "length"]},
    "embeddings": EMBEDDED | {
        "name": "embeddings assisters-embed-v1", "embeddings.dimension.count": 3,
        "request.encoding_formats": ["base64"]},
    "moderations": {
        "name": "moderation mod-1", "response.id": "str", "response.model": "mod-1"},
    "images": {
        "name": "image_generation assisters-image-v1", "output.type": "image",
        "request.choice.count": 2, "usage.input_tokens": 5, "usage.output_tokens": 7},
    "transcriptions": COMPLETED | {"name": "transcription w-1", "request.temperature": 0.5},
    "speech": {"name": "speech s-1", "output.type": "speech"},
    "models": {"name": "GET /v1/models"},
}  # fmt: skip
SHORT = NAMED | {"request.max_tokens": 50, "request.temperature": 1.0}
OF_SDK = {
    "chat": SHORT | CHAT | TOKENS,
    "streamed": SHORT | CHAT | STREAMED,
    "embeddings": {
        "name": "embeddings assisters-embed-v1", "request.encoding_formats": ["float"],
        "response.model": "assisters-embed-v1", "usage.input_tokens": 2},
    "moderations": EXPECTED["moderations"],
    "rerank": {"name": "rerank r-1", "response.model": "r-1"},
    "images": {"name": "image_generation i-1", "output.type": "image", "request.choice.count": 2},
    "transcriptions": {"name": "transcription w-1"},
    "speech": EXPECTED["speech"],
    "enhance": {"name": "audio_enhancement"},
    "search": {"name": "search"},
    "translate": {"name": "translation"},
    "agent": {"name": "invoke_agent"},
    "agent, streamed": {"name": "invoke_agent"} | STREAMED,
    "models": {"name": "GET /v1/models"},
}  # fmt: skip


@pytest.mark.parametrize("major", ["1", "2", "3"])
def test_every_form_of_a_call_of_openai_says_the_same(major, monkeypatch):
    older = Path(sys.prefix) / f"openai-{major}"
    path = [older, TESTS] if major != "3" else [TESTS]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, path)), prepend=":")

    version, told = passed(SCRIPT).out.splitlines()

    assert version.startswith(f"{major}."), f"{older} is not there; .ci/setup makes it"
    assert json.loads(told) == EXPECTED
    assert EXPECTED.keys() == OF_OPENAI.keys()


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("kind", OF_ASSISTERS)
def test_a_call_of_assisters_says_what_it_asks_and_is_answered(api, memory, kind):
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        told = told_by(memory, lambda: OF_ASSISTERS[kind](client))

    assert json.loads(json.dumps(told)) == OF_SDK[kind]
