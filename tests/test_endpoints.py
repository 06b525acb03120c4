from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assisters_otel.api import endpoints


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/api/v1/models", "/v1/models"),
        ("/assisters/eu/v1/embeddings", "/v1/embeddings"),
        ("/v1/proxy/v1/embeddings", "/v1/embeddings"),
        ("/gateway/audio/speech", "/v1/audio/speech"),
        ("/embeddings", "/v1/embeddings"),
        ("/v1/models/assisters-chat-v1", "/v1/models/{id}"),
        ("/v1/agent/%73tream", "/v1/agent/stream"),
        ("/v1/models/org%2Fmodel", "/v1/models/{id}"),
        ("/v1/models/v1", "/v1/models/{id}"),
        ("/v1", None),
        ("/", None),
        ("", None),
        ("/v1/fine-tuning/models", None),
        ("/v1/chat", None),
        ("/v2/chat/completions/x", None),
        ("/v1/" + "x" * 494 + "/v1/embeddings", "/v1/embeddings"),  # 512 characters
        ("/v1/" + "x" * 495 + "/v1/embeddings", None),
    ],
)
def test_a_path_has_the_documented_template_behind_any_prefix(path, expected):
    assert endpoints.template(path) == expected


@given(st.text())
def test_every_template_is_one_of_the_list(path):
    assert endpoints.template(path) in {None, *endpoints.TEMPLATES}
