"""Finds the GenAI span that another instrumentation has made at a call of an SDK, or around it.

Rules.

* A span of an instrumentation *of the SDK* is the call's span. The library writes to that one. It
  is known by the exact name of its scope: a prefix would match other SDKs and frameworks.
* A span of a *framework* may be around several calls, with fallbacks and tools. It is never written
  to. If it is an inference by what it says, the library's span under it is none: a backend would
  count the call and its tokens twice.
* A GenAI metric that the span's maker records is not recorded again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai, metrics
from assisters_otel.sinks import foreign_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

_DURATION: Final = metrics.OPERATION_DURATION.name
_FIRST_CHUNK: Final = metrics.FIRST_CHUNK.name
_TOKENS: Final = metrics.TOKEN_USAGE.name

_NOTHING: Final[frozenset[str]] = frozenset()
_DURATION_AND_TOKENS: Final = frozenset({_DURATION, _TOKENS})

SDK_SCOPES: Final[Mapping[str, frozenset[str]]] = {
    "opentelemetry.instrumentation.openai.v0": _DURATION_AND_TOKENS,
    "opentelemetry.instrumentation.openai.v1": _DURATION_AND_TOKENS,
    "opentelemetry.instrumentation.openai_v2": _DURATION_AND_TOKENS,
    "opentelemetry.instrumentation.genai.openai": _DURATION_AND_TOKENS | {_FIRST_CHUNK},
    "openinference.instrumentation.openai": _NOTHING,
    "logfire.openai": _NOTHING,
}
"""The scopes of the instrumentations of the `openai` SDK, with the GenAI metrics that each records.
Source: `opentelemetry-instrumentation-openai` 0.62, `-openai-v2` 2.4b0, `-genai-openai` 1.3b0,
`openinference-instrumentation-openai` 0.1.66, logfire 5.4. `opentelemetry.util.genai.handler` is
none of them: instrumentations of several SDKs and frameworks share that scope."""

FRAMEWORK_SCOPES: Final[Mapping[str, frozenset[str]]] = {
    "opentelemetry.instrumentation.langchain": _DURATION_AND_TOKENS,
    "opentelemetry.util.genai.handler": _DURATION_AND_TOKENS,
    "pydantic-ai": frozenset({_TOKENS, _FIRST_CHUNK}),
}
"""The same for frameworks, as far as they record any. Source: openllmetry 0.62,
`opentelemetry-util-genai` 0.4b0, pydantic-ai 2.68."""

INFERENCES: Final[Mapping[str, frozenset[str]]] = {
    gen_ai.OPERATION_NAME: frozenset(
        {
            *(gen_ai.CHAT, gen_ai.TEXT_COMPLETION, "generate_content", gen_ai.EMBEDDINGS),
            *(gen_ai.RERANK, gen_ai.MODERATION, gen_ai.TRANSCRIPTION, gen_ai.SPEECH),
            *(gen_ai.AUDIO_ENHANCEMENT, gen_ai.IMAGE_GENERATION, gen_ai.SEARCH, gen_ai.TRANSLATION),
        }
    ),
    "openinference.span.kind": frozenset({"LLM", "EMBEDDING"}),
    "llm.request.type": frozenset({"chat", "completion", "embedding", "rerank"}),
    "langfuse.observation.type": frozenset({"generation", "embedding"}),
}
"""The values by which a span says that it is an inference, by attribute: of the conventions and the
library, of OpenInference, of openllmetry and of Langfuse. An agent, a tool, a chain and a workflow
have other values: what they contain is not counted for them."""

INFERENCE_SCOPES: Final = frozenset({"openinference.instrumentation.litellm"})
"""The scopes whose spans are inferences all of them, but show no attribute of `INFERENCES` before
their end. Source: `openinference-instrumentation-litellm` 0.1.51."""


class GenAISpan(Record):
    """A GenAI span at a call or around it.

    Attributes:
        is_of_call: True if it is the call's span, and is written to.
        metrics: The names of the GenAI metrics that its maker records.
    """

    is_of_call: bool
    metrics: frozenset[str]


def find_gen_ai_span(current: Span) -> GenAISpan | None:
    """Return what the current span is to a call that starts, or None if it is no GenAI span.

    Args:
        current: The current span, recording.
    """
    made_by = getattr(current, "instrumentation_scope", None)
    scope = getattr(made_by, "name", None)
    if not isinstance(scope, str) or scope == names.SCOPE:
        return None
    attributes = foreign_span.attributes_of(current)
    # A span that has a call's outcome already is around several calls.
    if scope in SDK_SCOPES and names.CALL_OUTCOME not in attributes:
        return GenAISpan(is_of_call=True, metrics=SDK_SCOPES[scope])
    if scope in INFERENCE_SCOPES or _is_inference(attributes):
        recorded = SDK_SCOPES.get(scope) or FRAMEWORK_SCOPES.get(scope, _NOTHING)
        return GenAISpan(is_of_call=False, metrics=recorded)
    return None


def _is_inference(attributes: Mapping[str, object]) -> bool:
    return any(
        isinstance(value := attributes.get(name), str) and value in values
        for name, values in INFERENCES.items()
    )
