"""The real servers for the tests of this folder, or why they are not there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import build  # noqa: E402 - stands beside this file
from servers import (  # noqa: E402
    CONFIG,
    LIFE_S,
    Alertmanager,
    Collector,
    Jaeger,
    Prometheus,
    Webhook,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """Wait for the build that continuous integration has begun; elsewhere, build nothing."""
    try:
        if os.environ.get("CI"):
            build.everything()
        for server in build.SERVERS:
            for name in server.binaries:
                build.binary(name)
    except build.BuildError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


# Windows and waits, so that what takes minutes in earnest takes seconds here. Nothing else of
# the rules is changed.
QUICK = {
    r"\[(5m|10m)\]": "[10s]",
    r"\[2m\]": "[4s]",
    r"\[(30m|1h|2h)\]": "[15s]",
    r"\[(6h|1d|3d)\](?! offset)": "[20s]",
    r"\[1d\] offset 5m": "[60s] offset 10s",
    r"offset 5m": "offset 10s",
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


@pytest.fixture(scope="module")
def stack(quick_rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    webhook = Webhook()
    alertmanager = Alertmanager(folder, webhook.url)
    jaeger = Jaeger(folder)
    collector = Collector(folder, JAEGER_OTLP_ENDPOINT=jaeger.otlp)
    prometheus = Prometheus(
        folder,
        rules=quick_rules,
        targets={
            "collector": [collector.exporter],
            "collector-telemetry": [collector.telemetry],
            "alertmanagers": [alertmanager.address],
        },
    )
    yield Stack(jaeger, collector, prometheus, alertmanager, webhook)
    for server in (prometheus, collector, jaeger, alertmanager):
        server.stop()
    webhook.close()


class App:
    """An app in a process of its own, that does as it is told."""

    def __init__(self, service: str, endpoint: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if "OTEL" not in name}
        own = {
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "app.py")],
            env=clean | own | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._limit = threading.Timer(LIFE_S, self._process.kill)
        self._limit.daemon = True
        self._limit.start()
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self.url = self._answer()["ready"]
        self.took_s = 0.0

    def _read_errors(self) -> None:
        assert self._process.stderr
        self.errors.extend(self._process.stderr)

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(10)
            self._reader.join(5)
            raise RuntimeError("the app ended:\n" + "".join(self.errors[-30:]))
        return json.loads(line)

    def does(self, scene: str, *args: object, **options: object) -> Any:
        """Have a scene played to its end; what it returns."""
        assert self._process.stdin
        order = {"do": scene, "args": args, "options": options}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.took_s = answer["took_s"]
        return answer["said"]

    def kill(self) -> None:
        """End it as a machine that fails does."""
        self._process.kill()
        self.close()

    def close(self) -> int:
        """End it well; its exit code."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        code = self._process.wait(30)
        self._limit.cancel()
        self._reader.join(5)
        self._process.stdout.close()
        assert self._process.stderr
        self._process.stderr.close()
        return code


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
module_app = pytest.fixture(_apps, scope="module")
"""The same for a whole file."""
