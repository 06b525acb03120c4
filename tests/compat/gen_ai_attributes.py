"""Prints what each GenAI instrumentation of `openai` says of the same calls, as a table.

    python tests/compat/gen_ai_attributes.py          a row for each fact
    python tests/compat/gen_ai_attributes.py --all    a row for each attribute

Each instrumentation runs in a process of its own, with its defaults, against the fake API. One that
is not installed has no column. A cell names the calls of which the instrumentation's span has the
fact; "all" are all that can have it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import openai
from opentelemetry import trace

from assisters_otel.testing import FakeApi
from gen_ai_calls import OF_OPENAI, _streamed
from memory import Memory

OURS: Final = "assisters_otel"
INSTRUMENTATIONS: Final = {
    OURS: "assisters-otel",
    "opentelemetry.instrumentation.genai.openai": "genai-openai",
    "opentelemetry.instrumentation.openai_v2": "openai-v2",
    "opentelemetry.instrumentation.openai": "openllmetry",
    "openinference.instrumentation.openai": "openinference",
}
CALLS: Final = ("chat", "raw", "streamed", "responses", "embeddings", "retried", "failed", "broken")
FACTS: Final[dict[str, tuple[str, ...]]] = {
    "operation": ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind"),
    "model asked for": ("gen_ai.request.model", "llm.model_name", "embedding.model_name"),
    "max tokens, temperature, top p": (
        "gen_ai.request.max_tokens", "gen_ai.request.temperature", "llm.invocation_parameters"),
    "seed": ("gen_ai.request.seed", "gen_ai.openai.request.seed", "llm.invocation_parameters"),
    "dimensions, encoding format": (
        "gen_ai.embeddings.dimension.count", "gen_ai.request.encoding_formats",
        "embedding.invocation_parameters"),
    "output type": ("gen_ai.output.type", "gen_ai.openai.request.response_format"),
    "is streamed": ("gen_ai.request.stream", "gen_ai.is_streaming", "llm.is_streaming"),
    "server": ("server.address", "gen_ai.openai.api_base"),
    "answer's id": ("gen_ai.response.id",),
    "answer's model": ("gen_ai.response.model",),
    "finish reasons": (
        "gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "llm.finish_reason"),
    "input tokens": ("gen_ai.usage.input_tokens", "llm.token_count.prompt"),
    "output tokens": ("gen_ai.usage.output_tokens", "llm.token_count.completion"),
    "cached and reasoning tokens": (
        "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read"),
    "time to first chunk": ("gen_ai.response.time_to_first_chunk",),
    "error's type": ("error.type",),
    "error's code": ("error.code",),
    "whether a retry helps": ("assisters.error.retryable",),
    "request id": ("assisters.request.id",),
    "retries, and the wait": ("assisters.retry.count",),
    "outcome": ("assisters.call.outcome",),
    "how the stream ended": ("assisters.stream.outcome",),
    "prompt or answer (text)": (
        "gen_ai.input.messages", "gen_ai.prompt.N.content", "input.value", "output.value"),
}  # fmt: skip
"""The names under which a fact is known. The last one is what a span should not hold by default."""


def _ask(client: Any, api: FakeApi, kind: str) -> None:
    if kind == "retried":
        api.answers("model_overloaded", retry_after=0)
    elif kind == "failed":
        api.answers("api_key_revoked", param="model")
    elif kind == "broken":
        api.answers(fault="unfinished")
        _streamed(client)
        return
    OF_OPENAI[kind if kind in OF_OPENAI else "chat"](client, api)


def _play(module: str) -> dict[str, list[str]]:
    """Return the names of the attributes on the span around each call."""
    memory = Memory()
    providers = {
        "tracer_provider": memory.tracer_provider,
        "meter_provider": memory.meter_provider,
    }
    trace.set_tracer_provider(memory.tracer_provider)
    found = {}
    with FakeApi() as api, contextlib.ExitStack() as stack:
        if module == OURS:
            ours = importlib.import_module(OURS)
            stack.enter_context(ours.init(hosts=[api.url], **providers))
        else:
            importlib.import_module(module).OpenAIInstrumentor().instrument(**providers)
        client = stack.enter_context(openai.OpenAI(base_url=api.url, api_key="ask_k"))
        for kind in CALLS:
            memory.clear()
            with contextlib.suppress(openai.APIError):
                _ask(client, api, kind)
            spans = [one for one in memory.spans() if one not in memory.attempts()]
            names = {name for one in spans for name in one.attributes or ()}
            found[kind] = sorted({re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names})
    return found


def _told(module: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, __file__, "--play", module], capture_output=True, text=True, check=True
    )
    told: dict[str, list[str]] = json.loads(done.stdout)
    return told


def _is_installed(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return find_spec(module) is not None
    return False


def _table(told: dict[str, dict[str, list[str]]], facts: dict[str, tuple[str, ...]]) -> list[str]:
    titles = [INSTRUMENTATIONS[module] for module in told]
    lines = [f"| of a call | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for fact, names in facts.items():
        has = [
            [kind for kind in CALLS if set(names) & set(by_kind[kind])] for by_kind in told.values()
        ]
        most = {kind for kinds in has for kind in kinds}
        cells = [("all" if set(kinds) == most else ", ".join(kinds)) or "no" for kinds in has]
        lines.append(f"| {fact} | {' | '.join(cells)} |")
    return lines


def _main() -> None:
    told = {module: _told(module) for module in INSTRUMENTATIONS if _is_installed(module)}
    facts = FACTS
    if "--all" in sys.argv:
        every = {name for kinds in told.values() for names in kinds.values() for name in names}
        facts = {f"`{name}`": (name,) for name in sorted(every)}
    sys.stdout.write("\n".join(_table(told, facts)) + "\n")


if __name__ == "__main__":
    if "--play" in sys.argv:
        sys.stdout.write(json.dumps(_play(sys.argv[-1])))
    else:
        _main()
