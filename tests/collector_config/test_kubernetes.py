"""The files for Kubernetes are those of the folder above, and take no field that is not there."""

from __future__ import annotations

import json
import re
import shutil

import jsonschema
import kubernetes_schemas as schemas
import pytest
import yaml
from kubernetes_files import (
    CHECKS,
    COLLECTORS,
    HERE,
    INVALID,
    document,
    generated,
    made_by_chart,
    misspelt,
    patched,
    smaller,
)
from queries import CONFIG, DASHBOARD, RULES
from shipped import variables

import warm
from otlp import Collector

PROMETHEUS = yaml.safe_load(CONFIG.joinpath("prometheus.yaml").read_text())
STACK = document("kube-prometheus-stack")
SPEC = STACK["prometheus"]["prometheusSpec"]


def environment(values):
    """The variables that a chart's values set."""
    return {one["name"]: one["value"] for one in values["extraEnvs"]}


# -- in step -------------------------------------------------------------------------------------


def test_what_is_there_is_what_the_script_writes():
    texts = generated()

    assert {path.stem for path in HERE.glob("*.yaml")} == set(CHECKS)
    assert {f"{name}.yaml" for name in CHECKS if name != "app"} == set(texts)
    behind = [name for name, text in texts.items() if HERE.joinpath(name).read_text() != text]
    assert behind == [], "run collector-config/kubernetes/generate.py"


def test_the_rule_has_all_groups_with_the_interval_that_they_are_tested_with():
    groups = document("prometheus-rule")["spec"]["groups"]

    interval = PROMETHEUS["global"]["evaluation_interval"]
    assert groups == [{"interval": interval, **group} for group in RULES["groups"]]


def test_the_dashboard_is_found_by_its_label():
    dashboard = document("dashboard")

    (held,) = dashboard["data"].values()
    assert json.loads(held) == DASHBOARD
    sidecar = STACK["grafana"]["sidecar"]["dashboards"]
    assert dashboard["metadata"]["labels"][sidecar["label"]] == sidecar["labelValue"] == "1"


@pytest.mark.parametrize("name", COLLECTORS)
def test_a_collector_s_configuration_is_the_shipped_one(name):
    inside = document(name)["alternateConfig"]
    # Without the aliases.
    shipped = json.loads(json.dumps(yaml.safe_load(CONFIG.joinpath(f"{name}.yaml").read_text())))

    if name == "agent":
        for kind in ("traces", "metrics"):
            resolver = shipped["exporters"][f"load_balancing/{kind}"]["resolver"]
            del resolver["static"]
            resolver["dns"] = {"hostname": "${env:GATEWAY_SERVICE}", "port": "4317"}
    assert inside == shipped


def test_an_agent_without_the_lines_that_name_the_gateways_is_an_error(tmp_path):
    copied = tmp_path / "config"
    shutil.copytree(CONFIG, copied)
    agent = copied / "agent.yaml"
    agent.write_text(agent.read_text().replace("static:", "fixed:"))

    with pytest.raises(ValueError, match="RESOLVER"):
        generated(copied)


def test_prometheus_takes_what_the_shipped_one_takes():
    compose = yaml.safe_load(CONFIG.joinpath("compose.yaml").read_text())
    told = compose["services"]["prometheus"]["command"]

    assert SPEC["enableOTLPReceiver"] == ("--web.enable-otlp-receiver" in told)
    assert f"--enable-feature={','.join(SPEC['enableFeatures'])}" in told
    promoted = PROMETHEUS["otlp"]["promote_resource_attributes"]
    assert SPEC["otlp"]["promoteResourceAttributes"] == promoted
    assert SPEC["exemplars"]["maxSize"] == PROMETHEUS["storage"]["exemplars"]["max_exemplars"]
    window = PROMETHEUS["storage"]["tsdb"]["out_of_order_time_window"]
    assert SPEC["tsdb"]["outOfOrderTimeWindow"] == window


# -- valid ---------------------------------------------------------------------------------------


def test_the_schemas_are_some():
    for one in (*schemas.OPERATOR.values(), schemas.COLLECTOR_CHART, schemas.STACK_CHART):
        jsonschema.Draft202012Validator.check_schema(one)


@pytest.mark.parametrize("name", CHECKS)
def test_a_file_is_valid(name):
    CHECKS[name](document(name))


@pytest.mark.parametrize("name", CHECKS)
def test_a_misspelt_field_is_not_valid(name):
    whole = document(name)
    if name == "prometheus-rule":
        whole = smaller(whole)
    wrong = dict(misspelt(whole))

    passed = []
    for where, changed in wrong.items():
        try:
            CHECKS[name](changed)
        except INVALID:
            continue
        passed.append(where)
    assert passed == []
    assert len(wrong) >= 5


def test_the_file_is_small_enough_for_apply():
    """`kubectl apply` writes what it was given into an annotation, which has a limit."""
    for name in ("prometheus-rule", "dashboard"):
        assert len(json.dumps(document(name))) < 262_144, name


@pytest.mark.parametrize("name", COLLECTORS)
def test_helm_takes_no_value_for_a_template(name):
    """The chart runs the configuration through Helm's templates."""
    assert "{{" not in yaml.safe_dump(document(name), default_flow_style=False)


# -- fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLLECTORS)
def test_a_pod_listens_where_it_is_reached(name):
    """Without its variables a collector listens on loopback, where no probe reaches it."""
    values, read = document(name), variables(name)
    env = environment(values)
    ports = {key: port["containerPort"] for key, port in values["ports"].items() if port["enabled"]}

    listens = {one for one in read if one.endswith(("_LISTEN", "TELEMETRY_HOST"))}
    assert listens <= env.keys()
    assert {env[one].partition(":")[0] for one in listens} == {"0.0.0.0"}  # noqa: S104 - a pod
    at = {one: int(env[one].partition(":")[2]) for one in listens if one.endswith("_LISTEN")}
    assert at.pop("HEALTH_LISTEN") == 13133  # where the chart's probes ask
    at["telemetry"] = int(env.get("COLLECTOR_TELEMETRY_PORT", "8888"))
    assert sorted(at.values()) == sorted(ports.values())


@pytest.mark.parametrize("name", COLLECTORS)
def test_each_variable_that_a_pod_sets_is_read(name):
    read = set(re.findall(r"\$\{env:(\w+)", HERE.joinpath(f"{name}.yaml").read_text()))
    values = document(name)
    env = environment(values)

    assert env.keys() <= read
    without_default = {one for one, default in variables(name).items() if not default}
    assert without_default - {"GATEWAY_TLS_NAME"} <= env.keys()
    mounts = [one["mountPath"] for one in values.get("extraVolumeMounts", [])]
    files = [one for one in env.values() if one.startswith("/")]
    assert all(any(one.startswith(f"{mount}/") for mount in mounts) for one in files)


def test_agents_find_the_gateways_by_the_headless_service():
    agent, gateway = document("agent"), document("gateway")
    service, workload = made_by_chart(gateway)

    assert service["spec"]["clusterIP"] == "None"
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    host = environment(agent)["GATEWAY_SERVICE"]
    assert host == f"{service['metadata']['name']}.observability.svc"
    assert environment(agent)["GATEWAY_TLS_NAME"] == host
    assert 4317 in [port["port"] for port in service["spec"]["ports"]]


def test_the_queues_lie_on_what_outlives_the_pod():
    agent, gateway = document("agent"), document("gateway")

    (queue,) = [one for one in agent["extraVolumes"] if one["name"] == "queue"]
    assert "hostPath" in queue
    (claim,) = gateway["statefulset"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "queue"
    for values in (agent, gateway):
        (mount,) = [one for one in values["extraVolumeMounts"] if one["name"] == "queue"]
        assert environment(values)["QUEUE_DIRECTORY"].startswith(f"{mount['mountPath']}/")


def test_the_monitor_scrapes_what_the_collector_shows_and_leaves_the_apps_labels():
    (monitor,) = STACK["prometheus"]["additionalServiceMonitors"]
    collector = document("collector")

    (endpoint,) = monitor["endpoints"]
    assert endpoint["honorLabels"] is True
    port = collector["ports"][endpoint["port"]]["containerPort"]
    listens = environment(collector)["PROMETHEUS_EXPORTER_LISTEN"]
    assert listens == f"0.0.0.0:{port}"
    release = monitor["selector"]["matchLabels"]["app.kubernetes.io/instance"]
    assert f"helm upgrade --install {release} " in HERE.joinpath("collector.yaml").read_text()


@pytest.mark.parametrize("name", COLLECTORS)
def test_the_rules_know_a_collector_by_its_job(name):
    """AssistersCollectorDown does: a monitor's job is called by the service or by the monitor."""
    values = document(name)
    known = re.search(r'up\{job=~"([^"]+)"\}', CONFIG.joinpath("alerts.yaml").read_text())[1]

    assert re.fullmatch(known.replace("(?i:", "(?:"), f"observability/{values['fullnameOverride']}")
    assert values["podMonitor"]["enabled"] is True
    (endpoint,) = values["podMonitor"]["metricsEndpoints"]
    assert values["ports"][endpoint["port"]]["enabled"] is True


def test_one_label_more_is_let_through_by_the_files_above(tmp_path):
    added = "team.name"
    copied = tmp_path / "config"
    shutil.copytree(CONFIG, copied)
    for name, last, more in (
        ("collector.yaml", '"k8s.namespace.name"]', f'"k8s.namespace.name", "{added}"]'),
        ("gateway.yaml", '"k8s.namespace.name"]', f'"k8s.namespace.name", "{added}"]'),
        ("prometheus.yaml", "    - k8s.namespace.name", f"    - k8s.namespace.name\n    - {added}"),
    ):
        text = copied.joinpath(name).read_text()
        assert text.count(last) == 1
        copied.joinpath(name).write_text(text.replace(last, more))

    texts = generated(copied)

    for name in ("collector", "gateway"):
        (statement,) = [
            one
            for block in yaml.safe_load(texts[f"{name}.yaml"])["alternateConfig"]["processors"][
                "transform/labels"
            ]["metric_statements"]
            for one in block["statements"]
        ]
        assert f'"{added}"])' in statement
    stack = yaml.safe_load(texts["kube-prometheus-stack.yaml"])
    promoted = stack["prometheus"]["prometheusSpec"]["otlp"]["promoteResourceAttributes"]
    assert promoted[-1] == added


# -- an app --------------------------------------------------------------------------------------


def expanded(pod):
    """The variables of the app's container, as Kubernetes fills them in: in their order."""
    found = {}
    for one in pod["containers"][0]["env"]:
        path = one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = one["value"] if path is None else f"<{path}>"
        found[one["name"]] = re.sub(
            r"\$\((\w+)\)", lambda name, known=dict(found): known.get(name[1], name[0]), value
        )
    return found


def test_an_app_s_telemetry_says_where_it_runs(api):
    pod = patched(document("app"))["spec"]["template"]["spec"]
    env = expanded(pod)

    assert "$(" not in "".join(env.values())
    name = document("collector")["fullnameOverride"]
    assert env.pop("OTEL_EXPORTER_OTLP_ENDPOINT") == f"http://{name}.observability.svc:4318"
    with Collector() as collector:
        done = warm.run(
            "-c",
            "import assisters_otel, httpx, os\n"
            "with assisters_otel.init(hosts=[os.environ['URL']], strict=True):\n"
            "    httpx.get(os.environ['URL'] + '/models', trust_env=False)\n",
            env={**env, "URL": api.url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint},
        )
        assert done.returncode == 0, done.stderr
        (span,) = collector.spans()

    told = span.resource
    assert told["service.name"] == "<metadata.labels['app.kubernetes.io/name']>"
    assert told["k8s.namespace.name"] == "<metadata.namespace>"
    assert told["k8s.pod.name"] == "<metadata.name>"
    assert len(told["service.instance.id"]) == 36  # one that the library has made
    kept = set(PROMETHEUS["otlp"]["promote_resource_attributes"])
    labels = {"k8s.cluster.name", "k8s.namespace.name", "deployment.environment.name"}
    assert labels <= kept & told.keys()


def test_with_agents_an_app_sends_to_that_of_its_node():
    text = HERE.joinpath("app.yaml").read_text()
    commented = re.findall(r"^( +)# (- \{name: .*)$", text, re.MULTILINE)
    app = yaml.safe_load(text + "".join(f"{indent}{line}\n" for indent, line in commented))

    assert len(commented) == 2
    endpoint = expanded(app["spec"]["template"]["spec"])["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == "http://<status.hostIP>:4318"


def test_an_app_has_time_for_its_requests_and_its_telemetry():
    pod = patched(document("app"))["spec"]["template"]["spec"]

    assert pod["terminationGracePeriodSeconds"] >= 30 + 5
