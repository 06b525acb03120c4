"""Tries the check of retry policies on frameworks: python tests/compat/policies.py.

Each has an environment of its own: they bring dozens of packages, and pytest plug-ins.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from environments import (
    PROJECT,
    NotMadeError,
    end_all_on_sigterm,
    environment,
    run_for,
    wheel,
)

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
    try:
        built = wheel()
    except NotMadeError as error:
        sys.exit(f"[policies] {error}")
    failed = 0
    for name in chosen:
        begun = time.monotonic()
        good, told = attempt(name, Path(sys.executable), built)
        took = f"{time.monotonic() - begun:4.0f} s"
        print(f"{'ok    ' if good else 'FAILED'} {name:12} {took}  {told}", flush=True)
        failed += not good
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
