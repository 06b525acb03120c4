"""Tries the library beside other people's GenAI spans: python tests/compat/gen_ai.py.

Each has an environment of its own: they wrap the same SDK, bring dozens of packages, and load
pytest plug-ins into every run.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from environments import (
    PROJECT,
    NotMadeError,
    end_all_on_sigterm,
    environment,
    run_for,
    try_each,
)

if TYPE_CHECKING:
    from pathlib import Path

NEEDS = {
    "openllmetry": ("opentelemetry-instrumentation-openai==0.62.4",),
    # Its version 2.4b0 imports what later versions of the utilities do not have.
    "openai-v2": ("opentelemetry-instrumentation-openai-v2==2.4b0", "opentelemetry-util-genai<1"),
    "genai-openai": ("opentelemetry-instrumentation-genai-openai==1.3b0",),
    "openinference": ("openinference-instrumentation-openai==0.1.66",),
    "logfire": ("logfire==5.4.0",),
    "langfuse": ("langfuse==5.0.4",),
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "langchain": ("langchain-openai==1.7.4",),
    "langchain-openinference": (
        "langchain-openai==1.7.4", "openinference-instrumentation-langchain==0.1.80",
    ),
    "langchain-openllmetry": (
        "langchain-openai==1.7.4", "opentelemetry-instrumentation-langchain==0.62.4",
    ),
    "litellm": ("litellm==1.110.2",),
    "litellm-openinference": (
        "litellm==1.110.2", "openinference-instrumentation-litellm==0.1.51",
    ),
    "agents-openinference": (
        "openai-agents==0.24.0", "openinference-instrumentation-openai-agents==2.6.0",
    ),
    "agents-openllmetry": (
        "openai-agents==0.24.0", "opentelemetry-instrumentation-openai-agents==0.62.4",
    ),
    "instructor": ("instructor==1.17.0",),
}  # fmt: skip
"""The packages of each, beside the clients."""

ORDERS = ("init first", "init last")
"""Whether `init` is called before the other one is switched on."""

CLIENTS = ("httpx>=0.27,<1", "openai>=3,<4")
QUIET = {
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_API_KEY": "ask_nowhere",
    "OPENAI_AGENTS_DISABLE_TRACING": "0",
    "TRACELOOP_TELEMETRY": "false",
}
"""Nothing asks a server of the vendor's."""


def attempt(name: str, python: Path, built: Path) -> tuple[bool, str]:
    """Try one of them; what went wrong, or the version that it was."""
    tests = PROJECT / "tests"
    arguments = ["-r", "pyproject.toml", "--extra", "testing", *CLIENTS, *NEEDS[name]]
    try:
        with environment(
            f"gen-ai-{name}", python, built, [*arguments, "--prerelease=allow"]
        ) as inside:
            script = tests / "compat" / "check_gen_ai.py"
            for order in ORDERS:
                done = run_for(
                    inside, script, name, order, timeout_s=180, PYTHONPATH=str(tests), **QUIET
                )
                if done.returncode:
                    end = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
                    return False, f"{order}: {end}"
    except NotMadeError as error:
        return False, str(error)
    return True, ", ".join(NEEDS[name])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("name", nargs="*", choices=[[], *NEEDS], help="some of them")
    chosen = parser.parse_args(argv).name or list(NEEDS)
    return try_each("gen_ai", chosen, attempt)


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
