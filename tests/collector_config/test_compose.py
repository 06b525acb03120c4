"""compose.yaml is valid, keeps to loopback, and starts the very files that are tested."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from queries import CONFIG

COMPOSE = yaml.safe_load(CONFIG.joinpath("compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_it_is_a_compose_file():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", CONFIG / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_published_on_loopback_alone(service):
    ports = SERVICES[service]["ports"]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for value in SERVICES[service].get("environment", {}).values():
        assert "127.0.0.1" not in str(value), "inside, loopback is the container's own"


def test_the_images_are_the_versions_that_are_tested():
    import build

    tags = {name: service["image"].rpartition(":")[2] for name, service in SERVICES.items()}
    pinned = {server.name: server.version for server in build.SERVERS}

    assert tags["collector"] == pinned["otelcol"]
    assert tags["jaeger"] == pinned["jaeger"]
    assert tags["prometheus"] == f"v{pinned['prometheus']}"
    assert tags["alertmanager"] == f"v{pinned['alertmanager']}"
    assert tags["grafana"].count(".") == 2


@pytest.mark.parametrize("service", SERVICES)
def test_every_file_that_is_mounted_is_there(service):
    for volume in SERVICES[service].get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (CONFIG / source).is_file()
            assert volume.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
    for config in SERVICES[service].get("configs", ()):
        assert yaml.safe_load(COMPOSE["configs"][config["source"]]["content"])[0]["targets"]


def test_every_variable_that_is_set_is_read():
    """A misspelt one would leave a service on its own loopback."""
    for name, file in (("collector", "collector.yaml"), ("jaeger", "jaeger.yaml")):
        text = CONFIG.joinpath(file).read_text()
        for variable in SERVICES[name]["environment"]:
            assert variable.startswith("OTEL_") or f"${{env:{variable}:-" in text


@pytest.mark.parametrize("name", ["collector", "gateway"])
def test_what_prometheus_would_refuse_is_made_over_before_it_gets_there(name):
    config = yaml.safe_load(CONFIG.joinpath(f"{name}.yaml").read_text())
    pipeline = config["service"]["pipelines"]["metrics"]["processors"]

    assert pipeline.index("delta_to_cumulative") < pipeline.index("transform/histograms")


@pytest.mark.parametrize("name", ["collector", "gateway"])
def test_only_what_the_filter_leaves_is_counted_as_a_span(name):
    config = yaml.safe_load(CONFIG.joinpath(f"{name}.yaml").read_text())
    into = {
        key: one
        for key, one in config["service"]["pipelines"].items()
        if "span_metrics" in one["exporters"]
    }

    assert set(into) == {"traces/api"}
    assert into["traces/api"]["processors"] == ["filter/api"]


def test_delta_starts_again_before_its_series_is_gone():
    """Else the first count after a pause is in the series that comes back, and no increase."""
    config = yaml.safe_load(CONFIG.joinpath("collector.yaml").read_text())
    stale = config["processors"]["delta_to_cumulative"]["max_stale"]
    gone = config["exporters"]["prometheus"]["metric_expiration"]

    assert int(stale.rstrip("m")) < int(gone.rstrip("m"))


def test_an_agent_takes_out_what_the_single_collector_does():
    collector, agent, gateway = (
        yaml.safe_load(CONFIG.joinpath(f"{name}.yaml").read_text())
        for name in ("collector", "agent", "gateway")
    )

    private, labels = "transform/private", "transform/labels"
    assert agent["processors"][private] == collector["processors"][private]
    assert gateway["processors"][labels] == collector["processors"][labels]
    for same in ("delta_to_cumulative", "transform/histograms", "filter/api"):
        assert gateway["processors"][same] == collector["processors"][same]
    assert gateway["connectors"]["span_metrics"] == collector["connectors"]["span_metrics"]


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_every_exporter_of_many_machines_has_its_queue_on_disk(name):
    config = yaml.safe_load(CONFIG.joinpath(f"{name}.yaml").read_text())

    for exporter in config["exporters"].values():
        assert exporter["sending_queue"]["storage"] == "file_storage/queue"
