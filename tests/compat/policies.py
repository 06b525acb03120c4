"""Tries the check of retry policies on frameworks: python tests/compat/policies.py.

Each has an environment of its own: they bring dozens of packages, and pytest plug-ins.
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
    "litellm": "litellm==1.110.2",
    "langchain": "langchain-openai==1.7.4",
}
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
"""Nothing asks a server of the framework's."""


def attempt(name: str, python: Path, built: Path) -> tuple[bool, str]:
    """Try one framework; what went wrong, or the version that it was."""
    arguments = ["-r", "pyproject.toml", "--extra", "testing", NEEDS[name]]
    try:
        with environment(f"policy-{name}", python, built, arguments) as inside:
            script = PROJECT / "tests" / "compat" / "check_policies.py"
            done = run_for(inside, script, name, timeout_s=180, **QUIET)
    except NotMadeError as error:
        return False, str(error)
    if done.returncode:
        return False, "\n".join((done.stdout + done.stderr).splitlines()[-25:])
    return True, NEEDS[name]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("name", nargs="*", choices=[[], *NEEDS], help="some of them")
    chosen = parser.parse_args(argv).name or list(NEEDS)
    return try_each("policies", chosen, attempt)


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
