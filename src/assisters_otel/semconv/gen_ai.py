"""The names of the GenAI conventions that the library writes, with their types.

Source: semantic conventions 1.41, "Gen AI" (registry, spans, metrics), the last version that holds
these names. Later versions of the Python package mark them deprecated, because they move to a
repository of their own. There some are renamed and retyped: ``gen_ai.request.top_k`` is an int. So
they are typed here. A change of set is an edit of this file and of `semconv.metrics`.

`REQUEST_ATTRIBUTES` and `RESPONSE_ATTRIBUTES` are tables of the documentation. They hold numbers
and closed words. No attribute holds a text of a person's; stop sequences are such a text.
"""

from __future__ import annotations

from typing import Final

from assisters_otel.semconv.tables import Attribute

OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"
OUTPUT_TYPE: Final = "gen_ai.output.type"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - a label's name, no secret
"""string, metrics only. `INPUT` or `OUTPUT`."""

PROVIDER: Final = "assisters"
"""The value of ``gen_ai.provider.name``."""

INPUT: Final = "input"
OUTPUT: Final = "output"

CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
EMBEDDINGS: Final = "embeddings"
INVOKE_AGENT: Final = "invoke_agent"
"""The values of ``gen_ai.operation.name`` that the conventions have."""

RERANK: Final = "rerank"
MODERATION: Final = "moderation"
TRANSCRIPTION: Final = "transcription"
SPEECH: Final = "speech"
AUDIO_ENHANCEMENT: Final = "audio_enhancement"
IMAGE_GENERATION: Final = "image_generation"
SEARCH: Final = "search"
TRANSLATION: Final = "translation"
"""The custom values, for endpoints that the conventions have no operation for."""

TEXT: Final = "text"
JSON: Final = "json"
IMAGE: Final = "image"
"""The values of ``gen_ai.output.type``, with `SPEECH`."""

REQUEST_ATTRIBUTES: Final = (
    Attribute(REQUEST_STREAM, "boolean", "the call asks for an event stream", "true"),
    Attribute(REQUEST_MAX_TOKENS, "int", "the call names it", "tokens that may be generated"),
    Attribute(REQUEST_TEMPERATURE, "double", "same", "as asked for"),
    Attribute(REQUEST_TOP_P, "double", "same", "as asked for"),
    Attribute(REQUEST_TOP_K, "double", "same", "as asked for"),
    Attribute(REQUEST_FREQUENCY_PENALTY, "double", "same", "as asked for"),
    Attribute(REQUEST_PRESENCE_PENALTY, "double", "same", "as asked for"),
    Attribute(REQUEST_SEED, "int", "same", "as asked for"),
    Attribute(REQUEST_CHOICE_COUNT, "int", "the call asks for more than 1", "its `n`"),
    Attribute(EMBEDDINGS_DIMENSION_COUNT, "int", "the call names it", "its `dimensions`"),
    Attribute(REQUEST_ENCODING_FORMATS, "string[]", "same", "`float`, `base64`"),
    Attribute(
        OUTPUT_TYPE,
        "string",
        "the call names a format, or makes images or speech",
        f"`{TEXT}`, `{JSON}`, `{IMAGE}`, `{SPEECH}`",
    ),
)
"""The attributes of a call's request."""

RESPONSE_ATTRIBUTES: Final = (
    Attribute(RESPONSE_ID, "string", "the answer has one", "the answer's `id`"),
    Attribute(RESPONSE_MODEL, "string", "same", "the model that answered"),
    Attribute(
        RESPONSE_FINISH_REASONS, "string[]", "the answer has them", "one for each choice, `stop`"
    ),
    Attribute(USAGE_INPUT_TOKENS, "int", "the answer has its usage", "tokens of the request"),
    Attribute(USAGE_OUTPUT_TOKENS, "int", "same", "tokens that were generated"),
    Attribute(USAGE_CACHE_READ_TOKENS, "int", "same", "input tokens that a cache served"),
    Attribute(USAGE_REASONING_TOKENS, "int", "same", "output tokens that reasoning took"),
)
"""The attributes of a call's answer."""
