"""The storm of storm.py, a small one: what is counted, what arrives, what stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otlp import Collector
from sizes import sized

STORM = Path(__file__).with_name("storm.py")
REQUESTS = sized(10_000)
FAILED = REQUESTS // 10


def storm(way: str, **more: str) -> dict[str, Any]:
    # Not measured for coverage: that keeps something of each thread that there was.
    without = ("OTEL_", "COVERAGE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    done = subprocess.run(
        [sys.executable, str(STORM), way, str(REQUESTS)],
        env=clean | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_a_storm_is_counted_exactly_and_leaves_nothing_behind(way):
    told = storm(way)

    assert (told["attempts"], told["errors"]) == (REQUESTS, FAILED)
    assert told["spans"] == REQUESTS
    assert told["metrics"] == {
        "assisters.client.request.duration": REQUESTS,
        "assisters.client.errors": FAILED,
    }
    assert told["last_failure"] is None
    blocks = [blocks for blocks, _ in told["memory"]]
    # What is remembered of a failed attempt, of 2,048 at most, is a dozen blocks: 1.2 for each
    # request, and half of one more while tables grow. Another one for each would be seen.
    assert (blocks[-1] - blocks[4]) / (REQUESTS / 2) < 2.2


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_of_a_storm_every_point_arrives_and_none_twice(way):
    with Collector() as collector:
        storm(
            way,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_BSP_MAX_QUEUE_SIZE=str(REQUESTS),
            OTEL_BSP_SCHEDULE_DELAY="200",
            OTEL_METRIC_EXPORT_INTERVAL="300",
        )

        spans = collector.spans()
        assert len(spans) == len({span.span_id for span in spans}) == REQUESTS
        durations = collector.points("assisters.client.request.duration")
        assert sum(point.count for point in durations) == REQUESTS
        by_code = {
            point.attributes.get("error.code") or point.attributes["error.type"]: point.value
            for point in collector.points("assisters.client.errors")
        }
        assert by_code == {"rate_limit_exceeded": FAILED // 2, "ConnectError": FAILED // 2}
        assert not collector.points("assisters.client.retries")
        counts = [p.count for p in collector.all_points("assisters.client.request.duration")]
        assert len(counts) > len(durations), "exported once only: the storm was too short"
