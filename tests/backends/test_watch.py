"""`watch` behind a real collector: its `otlp_http` exporter, in protobuf and JSON, with gzip."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading

import pytest
import yaml
from servers import CONFIG, Collector

import assisters_otel
from assisters_otel.testing import FakeApi


@pytest.fixture
def watching():
    process = subprocess.Popen(
        [sys.executable, "-m", "assisters_otel", "watch", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = re.search(r"Watching on (\S+),", process.stderr.readline())[1]
    limit = threading.Timer(60, process.kill)
    limit.start()
    yield url, process
    limit.cancel()
    process.send_signal(signal.SIGINT)
    process.wait(20)
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("encoding", ["proto", "json"])
def test_what_a_collector_exports_is_shown(tmp_path, watching, encoding):
    url, process = watching
    config = yaml.safe_load(CONFIG.joinpath("collector.yaml").read_text("utf-8"))
    config["exporters"]["otlp_http/watch"] = {
        "endpoint": url,
        "encoding": encoding,
        "compression": "gzip",
    }
    config["service"]["pipelines"]["traces"]["exporters"].append("otlp_http/watch")
    config["service"]["pipelines"]["metrics"]["exporters"].append("otlp_http/watch")
    path = tmp_path / "with-watch.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    collector = Collector(tmp_path, str(path))
    try:
        with FakeApi() as api:
            send(api, collector.http)
        told = json.loads(process.stdout.readline())
    finally:
        collector.stop()

    assert (told["service"], told["error"]["code"]) == ("behind", "insufficient_funds")
    assert re.fullmatch("[0-9a-f]{32}", told["trace_id"])


def send(api, endpoint):
    import httpx

    api.answers("insufficient_funds")
    with assisters_otel.init("behind", hosts=[api.url], endpoint=endpoint) as telemetry:
        httpx.get(api.url + "/models", trust_env=False)
        assert telemetry.flush(10)
