"""The answers of a healthy API, as httpx and the real SDKs read them."""

from __future__ import annotations

import io
import json

import assisters
import httpx
import openai
import pytest

from assisters_otel.api import endpoints
from assisters_otel.testing import sample_bodies

MESSAGES = [{"role": "user", "content": "Hello!"}]
CHAT = {"model": "assisters-chat-v1", "messages": MESSAGES}


@pytest.fixture
def openai_client(assisters_api):
    with openai.OpenAI(base_url=assisters_api.url, api_key="ask_test", max_retries=0) as client:
        yield client


@pytest.fixture
def assisters_client(assisters_api):
    with assisters.Assisters("ask_test", base_url=assisters_api.url, max_retries=1) as client:
        yield client


@pytest.mark.parametrize("endpoint", sample_bodies.ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
def test_every_documented_endpoint_succeeds(assisters_api, endpoint):
    path = endpoint.path.replace("{id:path}", "assisters-chat-v1")
    response = httpx.request(endpoint.method, assisters_api.url + path)
    assert response.status_code == 200
    assert response.content
    if response.headers["content-type"] == "application/json":
        assert "error" not in response.json()


def test_each_documented_path_has_a_sample_and_no_other():
    paths = {f"/v1{endpoint.path}".replace(":path", "") for endpoint in sample_bodies.ENDPOINTS}
    assert paths == endpoints.TEMPLATES


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"7", b'{"model": null, "input": 3}'])
@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings", "/rerank", "/translate"])
def test_a_body_it_does_not_understand_is_answered_all_the_same(assisters_api, path, body):
    assert httpx.post(assisters_api.url + path, content=body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/models/gpt-9", 404),
        ("GET", "/models/a/b", 404),
        ("GET", "/models/", 404),
        ("GET", "/chat/completions", 405),
        ("DELETE", "/models", 405),
    ],
)
def test_what_is_not_there_is_an_envelope(assisters_api, method, path, status):
    response = httpx.request(method, assisters_api.url + path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "code" not in error
    assert response.headers["x-request-id"]


def test_outside_v1_there_is_nothing(assisters_api):
    assert httpx.get(f"http://{assisters_api.host}:{assisters_api.port}/").status_code == 404


def test_the_model_that_was_asked_for_answers(openai_client):
    completion = openai_client.chat.completions.create(model="custom-9", messages=MESSAGES)
    assert completion.model == "custom-9"


def test_openai_reads_a_chat(openai_client):
    completion = openai_client.chat.completions.create(**CHAT)
    assert completion.choices[0].message.content == "Hello from the fake API."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == 6
    assert completion._request_id.startswith("req_")


def test_openai_reads_a_chat_stream(openai_client):
    with openai_client.chat.completions.create(**CHAT, stream=True) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello from the fake API."
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_reads_embeddings_in_both_encodings(openai_client):
    for encoding in (openai.omit, "float"):
        reply = openai_client.embeddings.create(
            model="assisters-embed-v1", input=["a", "b"], encoding_format=encoding
        )
        assert [row.embedding for row in reply.data] == [[0.25, -0.5, 0.125]] * 2
        assert reply.usage.prompt_tokens == 2


def test_openai_reads_models_moderations_images_and_audio(openai_client):
    assert [model.id for model in openai_client.models.list()] == list(sample_bodies.MODELS)
    assert openai_client.models.retrieve("assisters-chat-v1").owned_by == "assisters"
    assert openai_client.moderations.create(input="x").results[0].flagged is False
    assert openai_client.images.generate(prompt="x").data[0].url
    speech = openai_client.audio.speech.create(input="x", model="m", voice="alloy")
    assert speech.content.startswith(b"ID3")
    heard = openai_client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="m")
    assert heard.text == "Hello."


def test_openai_meets_the_documented_error(assisters_api, openai_client):
    assisters_api.answers("missing_parameter", request_id="req_7")
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.chat.completions.create(**CHAT)
    assert caught.value.code == "missing_parameter"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == "messages"
    assert caught.value.request_id == "req_7"


def test_openai_retries_until_success(assisters_api, openai_client):
    assisters_api.answers("rate_limit_exceeded", "model_overloaded", retry_after=0.01)
    completion = openai_client.with_options(max_retries=2).chat.completions.create(**CHAT)
    assert completion.choices
    counts = [request.headers["x-stainless-retry-count"] for request in assisters_api.requests]
    assert counts == ["0", "1", "2"]


def test_assisters_reads_chat_embeddings_and_models(assisters_client):
    chat = assisters_client.chat.completions.create(**CHAT)
    assert chat["choices"][0]["message"]["content"] == "Hello from the fake API."
    rows = assisters_client.embeddings.create(model="m", input="a")["data"]
    assert rows[0]["embedding"] == [0.25, -0.5, 0.125]
    assert len(assisters_client.models.list()["data"]) == len(sample_bodies.MODELS)
    assert assisters_client.models.retrieve("assisters-chat-v1")["object"] == "model"
    with pytest.raises(assisters.NotFoundError):
        assisters_client.models.retrieve("gpt-9")


def test_assisters_reads_streams(assisters_client):
    chunks = list(assisters_client.chat.completions.create(**CHAT, stream=True))
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [event["type"] for event in assisters_client.agent.stream(query="x")] == [
        "step",
        "answer",
    ]


def test_assisters_reads_everything_else(assisters_client):
    client = assisters_client
    assert client.moderations.create(input="x")["results"]
    assert client.rerank(model="m", query="q", documents=["a", "b"])["results"][1]["index"] == 1
    assert client.web_search.query(query="q")["query"] == "q"
    assert client.translate(text="Hello", target_language="fr")["target_language"] == "fr"
    assert client.images.generations.create(prompt="x")["data"]
    assert client.audio.speech.create(input="x").startswith(b"ID3")
    assert client.audio.transcriptions.create(file=io.BytesIO(b"RIFF"))["text"]
    assert client.audio.enhance(file=io.BytesIO(b"RIFF"))
    assert client.agent.run(query="x")["answer"]
    assert client.get_rate_limit()["rpm"]["limit"] > 0


def test_the_sent_events_are_json_but_the_last(assisters_api):
    response = httpx.post(f"{assisters_api.url}/chat/completions", json={**CHAT, "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    lines = [line for line in response.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: ")) for line in lines[:-1])
