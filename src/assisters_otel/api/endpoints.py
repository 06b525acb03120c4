"""The documented paths of the Assisters API. Pure.

Source: the public docs and the official SDK.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from assisters_otel.api import redaction
from assisters_otel.semconv import gen_ai

CHAT: Final = "/v1/chat/completions"
"""The only endpoint for which the end of a stream is documented: ``data: [DONE]``."""

AGENT_STREAM: Final = "/v1/agent/stream"
"""The only endpoint whose query contains the user's input."""

_TAILS: Final = frozenset(
    {
        "chat/completions",
        "embeddings",
        "moderate",
        "moderations",
        "rerank",
        "audio/transcriptions",
        "audio/speech",
        "audio/enhance",
        "images/generations",
        "search",
        "translate",
        "agent/run",
        "agent/stream",
        "models",
        "rate-limit",
        "wallet/balance",
        "wallet/transactions",
        "wallet/top-up",
    }
)
TEMPLATES: Final = frozenset({f"/v1/{tail}" for tail in _TAILS} | {"/v1/models/{id}"})
"""All values that ``url.template`` can have."""

OPERATIONS: Final = {
    CHAT: gen_ai.CHAT,
    "/v1/embeddings": gen_ai.EMBEDDINGS,
    "/v1/agent/run": gen_ai.INVOKE_AGENT,
    AGENT_STREAM: gen_ai.INVOKE_AGENT,
    "/v1/moderate": gen_ai.MODERATION,
    "/v1/moderations": gen_ai.MODERATION,
    "/v1/rerank": gen_ai.RERANK,
    "/v1/audio/transcriptions": gen_ai.TRANSCRIPTION,
    "/v1/audio/speech": gen_ai.SPEECH,
    "/v1/audio/enhance": gen_ai.AUDIO_ENHANCEMENT,
    "/v1/images/generations": gen_ai.IMAGE_GENERATION,
    "/v1/search": gen_ai.SEARCH,
    "/v1/translate": gen_ai.TRANSLATION,
}
"""The ``gen_ai.operation.name`` of each documented path that has one. A path that reads models,
limits or the wallet, or tops the wallet up, has none."""

_GATEWAY_OPERATIONS: Final = {"responses": gen_ai.CHAT, "completions": gen_ai.TEXT_COMPLETION}
"""The same by the last segment of paths that the API does not document. A gateway may offer them,
and the `openai` SDK calls them. Source: the conventions' examples of both operations."""

# Longer than any documented path behind a gateway's prefix. A longer path is not parsed.
_MAX_PATH: Final = 512
_MODEL_ID_SEGMENTS: Final = 2


def template(path: str) -> str | None:
    """Return the documented path of an endpoint, ``/v1/models/{id}``, or None if it has none.

    Args:
        path: The path as sent, without the query. A gateway may put a prefix before it, or leave
            out the ``/v1``: ``/assisters/v1/models/assisters-chat-v1``.
    """
    return _template(path) if len(path) <= _MAX_PATH else None


@lru_cache(maxsize=256)
def _template(path: str) -> str | None:
    # Split before unquoting: the id of a model may contain a slash, which is sent as %2F.
    segments = [unquote(segment) for segment in path.strip("/").split("/")]
    after_version = [i + 1 for i, segment in enumerate(segments) if segment == "v1"]
    for start in after_version or range(len(segments)):
        rest = segments[start:]
        tail = "/".join(rest)
        if tail in _TAILS:
            return f"/v1/{tail}"
        if len(rest) == _MODEL_ID_SEGMENTS and rest[0] == "models":
            return "/v1/models/{id}"
    return None


def gateway_operation(path: str) -> str | None:
    """Return the ``gen_ai.operation.name`` of a path that is not documented, or None.

    Args:
        path: The path as sent, without the query.
    """
    return _GATEWAY_OPERATIONS.get(path.rstrip("/").rpartition("/")[2])


def masked_url(url: str, template: str | None) -> str:
    """Return a URL without keys, and without what the user typed.

    Args:
        url: The whole URL.
        template: Its documented path, or None.
    """
    if template == AGENT_STREAM and "?" in url:
        url = f"{url.partition('?')[0]}?{redaction.REDACTED}"
    return redaction.redact(url)
