"""An app in a process of its own, and the stories that the tests have it play."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers import LIFE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Collector

SCRIPT = Path(__file__).with_name("app.py")
CLIENTS = ("openai", "openai-async", "assisters")
MISTAKES = (
    "invalid_model",
    "invalid_request",
    "missing_parameter",
    "invalid_parameter",
    "context_length_exceeded",
)


class App:
    """An app in a process of its own, that does as it is told."""

    def __init__(self, service: str, endpoint: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if "OTEL" not in name}
        own = {
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",  # as often as Prometheus looks
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
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


def tell_codes(collector: Collector, start: Callable[..., App]) -> dict[str, Any]:
    """Every code by every client, and one recovered call; what each app saw."""
    seen = {}
    for client in CLIENTS:
        service = f"shop-{client}"
        shop = start(
            service,
            collector.grpc if client == "openai-async" else collector.http,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc" if client == "openai-async" else "http/protobuf",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,process.command_line=secret",
        )
        seen[service] = shop.does("codes", client)
        assert shop.does("recovered", client) == "ok"
        shop.does("agent")
        shop.does("flush")
    return seen


def make_trouble(collector: Collector, start: Callable[..., App]) -> App:
    """An hour's bad news in some seconds, each kind in a service of its own."""
    services = ("deploy", "night", "hammer", "waiter", "gated", "burning", "streamer")
    deploy, night, hammer, waiter, gated, burning, streamer = (
        start(service, collector.http) for service in services
    )
    of = "service.namespace=shop,deployment.environment=older"
    hasty = start("hasty", collector.http, OTEL_RESOURCE_ATTRIBUTES=of)
    waiter.does("slow", 25, 10.5)
    for code in ("invalid_api_key", "api_key_revoked", "origin_not_allowed"):
        deploy.does("each", code)
    deploy.does("each", code="quota_frozen", status=503, type="server_error")
    # Else nothing succeeded, which is worse, and silences all of these.
    deploy.does("ok", 3)
    for _ in range(15):  # in turns: a message names the kinds that there are when it is sent
        deploy.does("each", *MISTAKES)
    deploy.does("ok", 3)
    deploy.does("each", "rate_limit_exceeded", "model_overloaded", times=15)
    deploy.does("ok", 3)
    deploy.does("each", "content_filtered", times=40)
    deploy.does("each", "prompt_injection_detected", times=10)
    deploy.does("ok", 3)
    deploy.does("each", fault="drop", times=15)
    deploy.does("each", status=502, body="<html>", times=5)
    deploy.does("each", status=404, body="<html>", times=20)
    deploy.does("each", "internal_error", times=25)
    deploy.does("ok", 3)
    streamer.does("stream", times=4, fault="unfinished")
    streamer.does("stream", times=4, in_stream="internal_error")
    streamer.does("stream", times=32)  # too few to alert on before these
    # What a key alert silences is tried by a service that has none.
    deploy.does("each", "tokens_exhausted", "insufficient_funds")
    hammer.does("ok", 3)
    hammer.does("again", "invalid_model", 12)
    hammer.does("again", "rate_limit_exceeded", 20, retry_after=5)
    hammer.does("ok", 3)
    hammer.does("give_up", 25)
    low = {"x-ratelimit-remaining-tpm": "1000"}  # of FakeApi's 100,000
    hammer.does("each", times=1, headers=low)
    hasty.does("ok", 20)
    hasty.does("cancel", 30)
    gated.does("ok", 20)
    gated.does("each", status=401, body="<html>", times=30)
    # Twice as many as the rules ask for: some are outside of the windows, on a slow machine.
    burning.does("ok", 200)
    burning.does("each", "internal_error", times=60)
    for one in (deploy, hammer, waiter, hasty, gated, burning, streamer):
        one.does("flush")
    night.does("ok", 2000)
    night.does("each", "internal_error", times=50)
    night.does("flush")
    return hammer
