"""Processes that end by themselves: as many spans arrive, and are counted, as were sent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from apps import HERE, Told, command, environment, running, told

from otlp import Collector
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from assisters_otel.testing import FakeApi

ATTEMPTS = {"alone": 1, "Process": 2, "Pool": 4, "ProcessPoolExecutor": 4}
MODES = ("ours", "the app's", "zero-code")


def table() -> Iterator[tuple[str, str, str, str]]:
    """Yield each cell; at less than full size one ending of each way that forks."""
    for how in ("fork", "spawn", "forkserver"):
        for number, by in enumerate(ATTEMPTS):
            endings = ["return", "exception"]
            endings += ["sys.exit"] if by in {"alone", "Process"} else []
            if by == "alone" and how != "fork":
                continue
            cells = [(how, by, ending, mode) for ending in endings for mode in MODES]
            if SIZE < WHOLE:
                cells = [cells[4 * number % len(cells)]] if how == "fork" else []
            yield from cells


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("how", "by", "ending", "mode"), list(table()))
def test_nothing_is_lost_when_a_process_ends(
    api: FakeApi, tmp_path: Path, *, how: str, by: str, ending: str, mode: str
):
    made = ATTEMPTS[by]
    with Collector() as collector:
        env = environment(api, collector, mode, PYTHONPATH=str(HERE))
        words = command(mode, "children", how, by, ending)
        with running(words, env, tmp_path) as app:
            app.end()

        assert told(api, collector) == Told(made, made, made), app.said
    assert app.code == (0 if by != "alone" else {"exception": 1, "sys.exit": 3}.get(ending, 0))
