"""The GenAI attributes of a request, from the JSON object that an SDK will send. Pure.

Numbers and closed words alone, each in the type that the conventions give it. So a `param` that the
API refuses stands beside the value that it refuses. A text of a person's is never read: not the
messages, not the instructions, and not the stop sequences. A value of another type is left out; the
API will refuse it, and its error says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.semconv import gen_ai

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Value = str | bool | int | float | tuple[str, ...]

_INT64: Final = 2**63
_ENCODING_FORMATS: Final = frozenset({"float", "base64"})
_OUTPUT_TYPES: Final = {
    "text": gen_ai.TEXT,
    "json_object": gen_ai.JSON,
    "json_schema": gen_ai.JSON,
}
_OUTPUT_TYPE_BY_OPERATION: Final = {
    gen_ai.IMAGE_GENERATION: gen_ai.IMAGE,
    gen_ai.SPEECH: gen_ai.SPEECH,
}


def _integer(value: object) -> int | None:
    """Return an integer that fits an int64, or None. The OTLP encoder raises for a larger one."""
    if isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64:
        return value
    return None


def _double(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and -_INT64 <= value < _INT64:
        return float(value)
    return None


def _true(value: object) -> bool | None:
    return True if value is True else None


def _several(value: object) -> int | None:
    count = _integer(value)
    return None if count == 1 else count


def _encoding_formats(value: object) -> tuple[str, ...] | None:
    return (value,) if isinstance(value, str) and value in _ENCODING_FORMATS else None


def _output_type(value: object) -> str | None:
    """Return the type of a chat's ``response_format``, or of the ``format`` of `responses`."""
    kind = value.get("type") if isinstance(value, dict) else None
    return _OUTPUT_TYPES.get(kind) if isinstance(kind, str) else None


def _output_type_of_text(value: object) -> str | None:
    return _output_type(value.get("format")) if isinstance(value, dict) else None


_ATTRIBUTES: Final[Mapping[str, tuple[str, Callable[[object], Value | None]]]] = {
    "stream": (gen_ai.REQUEST_STREAM, _true),
    "max_tokens": (gen_ai.REQUEST_MAX_TOKENS, _integer),
    "max_completion_tokens": (gen_ai.REQUEST_MAX_TOKENS, _integer),
    "max_output_tokens": (gen_ai.REQUEST_MAX_TOKENS, _integer),
    "temperature": (gen_ai.REQUEST_TEMPERATURE, _double),
    "top_p": (gen_ai.REQUEST_TOP_P, _double),
    "top_k": (gen_ai.REQUEST_TOP_K, _double),
    "frequency_penalty": (gen_ai.REQUEST_FREQUENCY_PENALTY, _double),
    "presence_penalty": (gen_ai.REQUEST_PRESENCE_PENALTY, _double),
    "seed": (gen_ai.REQUEST_SEED, _integer),
    "n": (gen_ai.REQUEST_CHOICE_COUNT, _several),
    "dimensions": (gen_ai.EMBEDDINGS_DIMENSION_COUNT, _integer),
    "encoding_format": (gen_ai.REQUEST_ENCODING_FORMATS, _encoding_formats),
    "response_format": (gen_ai.OUTPUT_TYPE, _output_type),
    "text": (gen_ai.OUTPUT_TYPE, _output_type_of_text),
}
"""The attribute of each member of the JSON object, and the function that reads its value. Chat,
newer models' chat and `responses` each have a name of their own for the limit of tokens."""


def request_attributes(operation: str | None, body: Mapping[str, object]) -> dict[str, Value]:
    """Return the attributes of what a call asks for.

    Args:
        operation: The ``gen_ai.operation.name``, or None if the endpoint has none. Then nothing of
            the body has a meaning that the conventions know.
        body: The members of the JSON object or form.
    """
    found: dict[str, Value] = {}
    if operation is None:
        return found
    for name, value in body.items():
        row = _ATTRIBUTES.get(name)
        if row is not None and value is not None:
            attribute, read = row
            parsed = read(value)
            if parsed is not None:
                found[attribute] = parsed
    output = _OUTPUT_TYPE_BY_OPERATION.get(operation)
    if output is not None:
        found[gen_ai.OUTPUT_TYPE] = output
    return found
