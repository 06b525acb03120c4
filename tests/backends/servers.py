"""Starts the real servers on loopback, asks them, ends them.

Each has ports of its own choosing, lives for `LIFE_S` at most, and is ended by its process id.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import build
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONFIG = Path(__file__).parents[2] / "collector-config"
LIFE_S = 90 * 60
"""As long as continuous integration may take: the servers of a session outlive its slowest run."""
READY_S = 30
PATIENCE = 4
"""How many times longer than on an idle machine a thing may take to happen."""
GO = {"GOGC": "800", "GOMEMLIMIT": "1GiB"}
"""For every server: to collect its garbage takes a third of what promtool computes."""
PORTS = range(15_000, 32_000)
"""Below those that a system gives by itself: to a client, and to who asks for port 0."""
FEATURES = "exemplar-storage,created-timestamp-zero-ingestion"
"""What compose.yaml switches on in Prometheus."""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on. All are held at once, so none comes twice.

    They are of `PORTS`: any other would go to whoever connects before the server has started.
    """
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            one, port = held.enter_context(socket.socket()), secrets.choice(PORTS)
            with suppress(OSError):  # it is taken
                one.bind(("127.0.0.1", port))
                found.append(port)
    return found


def get(url: str, **parameters: str) -> Any:
    """The JSON that a server answers.

    Raises:
        HTTPError: It refused; the body is in the exception's notes.
    """
    query = f"?{urlencode(parameters)}" if parameters else ""
    with urlopen(f"{url}{query}", timeout=10) as answer:  # noqa: S310 - our own servers
        return json.load(answer)


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """Ask again and again until there is a true answer; the last answer when time is up.

    The seconds are those of an idle machine (see `PATIENCE`).
    """

    def asked() -> Any:
        try:
            return ask()
        except (URLError, ConnectionError, TimeoutError):
            return None

    return _until(time.monotonic() + PATIENCE * seconds, asked)


def never(seconds: float, ask: Callable[[], Any]) -> bool:
    """Whether there was no true answer in all that time.

    Raises:
        URLError: The server is not there.
    """
    return not _until(time.monotonic() + seconds, ask)


def _until(end: float, ask: Callable[[], Any]) -> Any:
    while True:
        answer = ask()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(0.2)


def _die_with_parent() -> None:  # pragma: no cover - runs in the child
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """A process of a real server."""

    def __init__(
        self, name: str, *arguments: str, folder: Path, ready: str, **environment: object
    ) -> None:
        self.name = name
        self.ready = ready
        self.log = folder / f"{name}-{free_ports(1)[0]}.log"
        self._folder = folder
        self._command = [str(build.binary(name)), *arguments]
        self._environment = {key: str(value) for key, value in environment.items()}
        self.start()

    def start(self) -> None:
        """Start, or start again, and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**os.environ, **GO, **self._environment},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing else runs threads here yet
            )
        self._limit = threading.Timer(LIFE_S, self.process.kill)
        self._limit.daemon = True
        self._limit.start()
        if not within(READY_S, self._is_ready):
            self.kill()
            raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-3000:]}")

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")
        with suppress(HTTPError), urlopen(self.ready, timeout=2) as answer:  # noqa: S310
            return answer.status == 200
        return False

    def stop(self) -> int:
        """End it as an orchestrator does, and wait: what it holds is drained."""
        self._limit.cancel()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(10)

    def kill(self) -> None:
        """End it as a machine that fails does."""
        self._limit.cancel()
        self.process.kill()
        self.process.wait(10)


class Collector(Server):
    """The collector, with a shipped config."""

    def __init__(self, folder: Path, config: str = "collector.yaml", **environment: object) -> None:
        grpc, http, exporter, telemetry, health = free_ports(5)
        self.grpc, self.http = f"http://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        self.exporter, self.telemetry = f"127.0.0.1:{exporter}", f"127.0.0.1:{telemetry}"
        own = {
            "OTLP_GRPC_LISTEN": f"127.0.0.1:{grpc}",
            "OTLP_HTTP_LISTEN": f"127.0.0.1:{http}",
            "PROMETHEUS_EXPORTER_LISTEN": self.exporter,
            "COLLECTOR_TELEMETRY_PORT": telemetry,
            "HEALTH_LISTEN": f"127.0.0.1:{health}",
        }
        super().__init__(
            "otelcol",
            "--config",
            str(CONFIG / config),
            folder=folder,
            ready=f"http://127.0.0.1:{health}",
            **own,
            **environment,
        )


class Jaeger(Server):
    """Jaeger with the shipped config, and its query API."""

    def __init__(self, folder: Path, **environment: object) -> None:
        grpc, http, query, query_grpc, health = free_ports(5)
        self.otlp = f"127.0.0.1:{grpc}"
        self.url = f"http://127.0.0.1:{query}"
        super().__init__(
            "jaeger",
            "--config",
            str(CONFIG / "jaeger.yaml"),
            folder=folder,
            ready=f"http://127.0.0.1:{health}/status",
            JAEGER_OTLP_GRPC_LISTEN=self.otlp,
            JAEGER_OTLP_HTTP_LISTEN=f"127.0.0.1:{http}",
            JAEGER_QUERY_LISTEN=f"127.0.0.1:{query}",
            JAEGER_QUERY_GRPC_LISTEN=f"127.0.0.1:{query_grpc}",
            JAEGER_HEALTH_LISTEN=f"127.0.0.1:{health}",
            OTEL_TRACES_SAMPLER="always_off",  # of itself: it would hold its end up for them
            **environment,
        )

    def search(self, service: str, **tags: str) -> list[dict[str, Any]]:
        """The traces of a service that have a span with these tags, names with ``_`` for ``.``.

        The one place that asks by attribute: later releases of Jaeger ask otherwise.
        """
        try:
            found = get(
                f"{self.url}/api/traces",
                service=service,
                tags=json.dumps({name.replace("_", "."): value for name, value in tags.items()}),
                limit="1000",
            )
        except HTTPError as error:
            if error.code == 404:
                return []
            raise
        return found["data"]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of one trace, by their begin; none if it is not there."""
        try:
            found = get(f"{self.url}/api/traces/{trace_id}")
        except HTTPError as error:
            if error.code == 404:
                return []
            raise
        spans = [span for trace in found["data"] for span in trace["spans"]]
        return sorted(spans, key=lambda span: span["startTime"])


def noise(collector: Collector, names: int) -> list[str]:
    """Send spans of a service that has nothing to do with the API, each of a name of its own.

    Returns:
        The ids of their traces.
    """
    ids = [secrets.token_hex(16) for _ in range(names)]
    spans = [
        {
            "traceId": one,
            "spanId": secrets.token_hex(8),
            "name": f"GET /orders/{number}",
            "kind": 3,
            "startTimeUnixNano": "1800000000000000000",
            "endTimeUnixNano": "1800000001000000000",
        }
        for number, one in enumerate(ids)
    ]
    name = {"key": "service.name", "value": {"stringValue": "noisy"}}
    scopes = [{"resource": {"attributes": [name]}, "scopeSpans": [{"spans": spans}]}]
    request = Request(  # noqa: S310 - our own server
        f"{collector.http}/v1/traces",
        json.dumps({"resourceSpans": scopes}).encode(),
        {"content-type": "application/json"},
    )
    with urlopen(request, timeout=30):  # noqa: S310
        return ids


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """A span's attributes, as Jaeger has them."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


class Prometheus(Server):
    """Prometheus with the shipped config, quicker, and with the shipped rules, or quick ones."""

    def __init__(
        self,
        folder: Path,
        *,
        targets: Mapping[str, list[str]],
        rules: Path,
        interval_s: float = 1,
        features: str = FEATURES,
    ) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        home = folder / f"prometheus-{port}"
        (home / "targets").mkdir(parents=True)
        config = yaml.safe_load((CONFIG / "prometheus.yaml").read_text())
        every = f"{int(interval_s * 1000)}ms"
        config["global"] |= {
            "scrape_interval": every,
            "evaluation_interval": every,
            "scrape_timeout": every,
        }
        config["rule_files"] = [str(rules)]
        (home / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.targets = home / "targets"
        for name, addresses in {"prometheus": [f"127.0.0.1:{port}"], **targets}.items():
            self.target(name, addresses)
        super().__init__(
            "prometheus",
            f"--config.file={home}/prometheus.yaml",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={home}/data",
            f"--enable-feature={features}",
            "--web.enable-otlp-receiver",
            folder=folder,
            ready=f"{self.url}/-/ready",
        )

    def target(self, name: str, addresses: list[str]) -> None:
        """Write one of the files that the shipped config reads its targets from."""
        new = self.targets / f"{name}.new"
        new.write_text(yaml.safe_dump([{"targets": addresses}]))
        new.rename(self.targets / f"{name}.yaml")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now: labels and value."""
        found = get(f"{self.url}/api/v1/query", query=expression)["data"]
        return [{**one["metric"], "value": float(one["value"][1])} for one in found["result"]]

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """The labels of the exemplars of the last ten minutes."""
        now = time.time()
        found = get(
            f"{self.url}/api/v1/query_exemplars",
            query=expression,
            start=str(now - 600),
            end=str(now + 5),
        )["data"]
        return [one["labels"] for series in found for one in series["exemplars"]]

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing."""
        return get(f"{self.url}/api/v1/alerts")["data"]["alerts"]


class Alertmanager(Server):
    """Alertmanager with the shipped config, quicker, its receivers pointed at a webhook."""

    def __init__(self, folder: Path, webhook: str) -> None:
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        home = folder / f"alertmanager-{port}"
        home.mkdir()
        config = yaml.safe_load((CONFIG / "alertmanager.yaml").read_text())

        def hurry(route: dict[str, Any]) -> None:
            route |= {"group_wait": "1s", "group_interval": "1s"}
            if route["receiver"] == "watchdog":
                route["repeat_interval"] = "5s"
            for inner in route.get("routes", ()):
                hurry(inner)

        hurry(config["route"])
        for receiver in config["receivers"]:
            for hook in receiver.get("webhook_configs", ()):
                hook["url"] = f"{webhook}/{receiver['name']}"
        (home / "alertmanager.yaml").write_text(yaml.safe_dump(config))
        super().__init__(
            "alertmanager",
            f"--config.file={home}/alertmanager.yaml",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
            f"--storage.path={home}/data",
            folder=folder,
            ready=f"http://{self.address}/-/ready",
        )


class Webhook:
    """Where alerts arrive: each with the receiver it came for, newest last."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        arrived = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))
                arrived.extend({**one, "receiver": self.path[1:]} for one in message["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def of(self, alert: str, status: str = "firing", **labels: str) -> list[dict[str, Any]]:
        """What arrived of one alert."""
        wanted = {"alertname": alert, **labels}.items()
        return [
            one
            for one in self.alerts
            if one["status"] == status and wanted <= one["labels"].items()
        ]

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
