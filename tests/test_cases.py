"""Faults that were found, each as the small script that shows it: each holds."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import warm

CASES = sorted((Path(__file__).parent / "cases").glob("*.py"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_what_was_found_holds(case):
    settings = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "ASSISTERS_", "COVERAGE_"))
    }
    done = warm.run(case, env=settings, timeout_s=120)

    wrong = re.findall(r"^WRONG: .*", done.stdout, re.MULTILINE)
    assert (done.returncode, wrong) == (0, []), done.stderr[-2000:]
