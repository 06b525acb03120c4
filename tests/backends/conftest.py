"""The real servers for the tests of this folder, or why they are not there."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import build
import pytest
import rule_tests
from servers import (
    CONFIG,
    Alertmanager,
    Collector,
    Jaeger,
    Prometheus,
    Webhook,
)
from stories import App, make_trouble, tell_codes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path
    from subprocess import CompletedProcess


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """Wait for the build that continuous integration has begun; elsewhere, build nothing."""
    try:
        if os.environ.get("CI"):
            build.everything()
        for server in build.SERVERS:
            for name in () if server.optional else server.binaries:
                build.binary(name)
    except build.BuildError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def rules_tested(
    request: pytest.FixtureRequest,
    built: None,  # noqa: ARG001 - after it
) -> Iterator[dict[tuple[str, str], Future[CompletedProcess[str]]]]:
    """What promtool says of each file, by its own name and the file's.

    It begins with the session, one file after another: the other tests wait most of the time.
    """
    asked = [
        (item.callspec.params["name"], item.callspec.params["file"])
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_the_rules_do_what_their_tests_say"
    ]

    def run(name: str, file: str) -> CompletedProcess[str]:
        return rule_tests.run(build.binary(name), CONFIG, file)

    pool = ThreadPoolExecutor(1)
    yield {one: pool.submit(run, *one) for one in asked}
    pool.shutdown(cancel_futures=True)


# Windows and waits, so that what takes minutes in earnest takes seconds here. Nothing else of
# the rules is changed.
QUICK = {
    r"\[5m\]": "[10s]",
    r"\[10m\]": "[20s]",
    r"\[2m\]": "[4s]",
    r"\[1h\] offset 5m": "[60s] offset 10s",
    r"\[7d:5m\] offset 5m": "[60s:1s] offset 10s",
    r"\"\}\[1d:5m\]": '"}[60s:1s]',
    r"\[30m:5m\] offset 20m": "[30s:10s] offset 20s",
    r"\[5m:5m\]": "[10s:10s]",
    r"\[(10m|15m|30m|2h):5m\]": "[20s:10s]",
    r"\[(45m|1h|6h):5m\]": "[40s:10s]",
    r"\[(1d|3d):5m\]": "[60s:10s]",
    r"offset 5m": "offset 10s",
    r"offset 8m": "offset 20s",  # Prometheus finds its targets five seconds after its start
    r"interval: 2m": "interval: 1s",
    r"keep_firing_for: \d+m": "keep_firing_for: 0s",
    r"(?<!_)for: \d+m": "for: 0s",
}


@pytest.fixture(scope="session")
def quick_rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = CONFIG.joinpath("alerts.yaml").read_text()
    for long, short in QUICK.items():
        text, count = re.subn(long, short, text)
        assert count, f"alerts.yaml has no {long} any more"
    left = re.findall(r"\[[^]]*\d[mhd][^]]*\]", text)
    assert not left, f"{left} take their time"
    path = tmp_path_factory.mktemp("rules") / "alerts.yaml"
    path.write_text(text)
    return path


class Stack(NamedTuple):
    """One of each server, as compose.yaml has them."""

    jaeger: Jaeger
    collector: Collector
    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook


@pytest.fixture(scope="session")
def stack(quick_rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with ExitStack() as ends:
        webhook = Webhook()
        ends.callback(webhook.close)
        alertmanager = Alertmanager(folder, webhook.url)
        ends.callback(alertmanager.stop)
        jaeger = Jaeger(folder)
        ends.callback(jaeger.stop)
        collector = Collector(folder, JAEGER_OTLP_ENDPOINT=jaeger.otlp)
        ends.callback(collector.stop)
        targets = {
            "collector": [collector.exporter],
            "collector-telemetry": [collector.telemetry],
            "alertmanagers": [alertmanager.address],
        }
        prometheus = Prometheus(folder, rules=quick_rules, targets=targets)
        ends.callback(prometheus.stop)
        yield Stack(jaeger, collector, prometheus, alertmanager, webhook)


def _apps() -> Iterator[Callable[..., App]]:
    apps: list[App] = []

    def start(service: str, endpoint: str, **environment: str) -> App:
        apps.append(App(service, endpoint, **environment))
        return apps[-1]

    yield start
    for one in apps:
        one.close()


app = pytest.fixture(_apps)
"""Starts an app: service name, endpoint, variables."""
session_app = pytest.fixture(_apps, scope="session")
"""The same for the whole session."""


@pytest.fixture(scope="session")
def told(stack: Stack, session_app: Callable[..., App]) -> dict[str, Any]:
    """Every code by every client, and one recovered call; what each app saw."""
    return tell_codes(stack.collector, session_app)


@pytest.fixture(scope="session")
def trouble(stack: Stack, session_app: Callable[..., App]) -> App:
    """An hour's bad news in some seconds; the app whose headroom is low since."""
    return make_trouble(stack.collector, session_app)
