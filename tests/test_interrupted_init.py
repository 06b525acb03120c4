"""Ctrl-C in the middle of `init`, as in a notebook's cell that is run again."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

import assisters_otel
from assisters_otel.instrumentor import AssistersInstrumentor
from assisters_otel.process import PROCESS
from moments import interrupted_at
from otlp import Collector
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi
    from memory import Memory

STEP, STEP_OF_OURS = (1, 5) if SIZE >= WHOLE else (43, 97)


def interrupted_init(number: int, **arguments: Any) -> str | None:
    """Interrupt `init` at one moment. Return where that was, or None if it has no such moment."""
    place = None
    with interrupted_at(number) as places:
        try:
            telemetry = assisters_otel.init(**arguments)
        except KeyboardInterrupt:
            place = places[0]
    if place is None:
        telemetry.shutdown()
    return place


def test_an_interrupted_init_leaves_the_very_same_functions(api: FakeApi, memory: Memory):
    arguments = {
        "hosts": [api.url],
        "tracer_provider": memory.tracer_provider,
        "meter_provider": memory.meter_provider,
    }
    before = vars(httpx.HTTPTransport)["handle_request"]
    patched = []
    for number in count(1, STEP):
        place = interrupted_init(number, **arguments)
        if place is None:
            break
        if PROCESS.current is not None:  # all was done, and the next `init` returns this one
            PROCESS.current.shutdown()
        if vars(httpx.HTTPTransport)["handle_request"] is not before:
            patched.append(place)
            AssistersInstrumentor()._uninstrument()

    assert number > STEP
    assert patched == []


AGAIN = """
import os
from itertools import count

import httpx
import assisters_otel
from test_interrupted_init import STEP_OF_OURS, interrupted_init

made = 0
for number in count(1, STEP_OF_OURS):
    if interrupted_init(number, hosts=[os.environ["API"]]) is None:
        break
    with assisters_otel.init(hosts=[os.environ["API"]]):
        httpx.get(os.environ["API"] + "/models", trust_env=False)
        made += 1
print(made)
"""


def test_an_init_after_an_interrupted_one_sends_everything(api: FakeApi):
    here = Path(__file__).parent
    with Collector() as collector:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
        more = {"API": api.url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        done = subprocess.run(
            [sys.executable, "-c", AGAIN],
            env={**clean, **more, "PYTHONPATH": str(here)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        made = int(done.stdout)
        assert made > 1
        assert len({span.span_id for span in collector.spans()}) == made
