"""The files for Kubernetes, and what the chart of the collector makes of its values."""

from __future__ import annotations

import copy
import json
import runpy
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_schemas as schemas
import kubernetes_validate
import yaml
from kubernetes_validate import utils
from queries import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Document = dict[str, Any]

# It reads megabytes at each call, and nobody changes them.
utils.schema_contents = cache(utils.schema_contents)

HERE = CONFIG / "kubernetes"
VERSION = "1.37"
"""Of Kubernetes: the newest that kubernetes-validate has."""
COLLECTORS = ("agent", "collector", "gateway")
FREE = {"labels", "annotations", "matchLabels", "data", "limits", "requests"}
"""Maps whose keys are anyone's."""


def generated(config: Path = CONFIG) -> dict[str, str]:
    """What the script writes of the files in a folder."""
    generate = runpy.run_path(str(HERE / "generate.py"))["generate"]
    return dict(generate(config))


def document(name: str) -> Document:
    """One of the files."""
    return dict(yaml.safe_load(HERE.joinpath(f"{name}.yaml").read_text("utf-8")))


def patched(patch: Document) -> Document:
    """The smallest Deployment, with the patch merged in as `kubectl patch` does it."""
    app: Document = {
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "my-app"}},
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": "my-app"}},
                "spec": {"containers": [{"name": "app", "image": "my-app:1"}]},
            },
        }
    }
    return dict(_merged(app, patch))


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        both = {key: _merged(old[key], new[key]) for key in old.keys() & new.keys()}
        return {**old, **new, **both}
    if isinstance(old, list) and isinstance(new, list):  # of containers, which have names
        known = {one["name"]: one for one in old}
        known |= {one["name"]: _merged(known.get(one["name"]), one) for one in new}
        return list(known.values())
    return new


def made_by_chart(values: Document) -> Iterator[Document]:
    """The Kubernetes objects that the chart opentelemetry-collector, 0.158.3, makes of values."""
    name = values["fullnameOverride"]
    ports = {key: port for key, port in values["ports"].items() if port["enabled"]}
    is_agent = values["mode"] == "daemonset"
    pod = {
        "containers": [{
            "name": "opentelemetry-collector",
            "image": f"{values['image']['repository']}:{values['image']['tag']}",
            "command": [f"/{values['command']['name']}"],
            "args": ["--config=/conf/relay.yaml"],
            "resources": values["resources"],
            "securityContext": values.get("securityContext", {}),
            "ports": [
                {"name": key, "containerPort": port["containerPort"], "protocol": port["protocol"],
                 **({"hostPort": port["hostPort"]} if is_agent and "hostPort" in port else {})}
                for key, port in ports.items()
            ],
            "env": values["extraEnvs"],
            "volumeMounts": values.get("extraVolumeMounts", []),
        }],
        "securityContext": values.get("podSecurityContext", {}),
        "terminationGracePeriodSeconds": values["terminationGracePeriodSeconds"],
        "tolerations": values.get("tolerations", []),
        "volumes": values.get("extraVolumes", []),
    }  # fmt: skip
    labels = {"app.kubernetes.io/name": "opentelemetry-collector"}
    spec: Document = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if values["mode"] == "statefulset":
        spec["serviceName"] = name
        spec["volumeClaimTemplates"] = values["statefulset"]["volumeClaimTemplates"]
    if values["mode"] == "deployment":
        spec["strategy"] = {"type": values["rollout"]["strategy"]}
    if not is_agent:
        spec["replicas"] = values["replicaCount"]
        service = values.get("service", {})
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                **{key: service[key] for key in ("type", "clusterIP") if key in service},
                "selector": labels,
                "ports": [
                    {"name": key, "port": port["servicePort"], "targetPort": port["containerPort"],
                     **{what: port[what] for what in ("protocol", "appProtocol") if what in port}}
                    for key, port in ports.items()
                ],
            },
        }  # fmt: skip
    kinds = {"daemonset": "DaemonSet", "statefulset": "StatefulSet", "deployment": "Deployment"}
    yield {
        "apiVersion": "apps/v1",
        "kind": kinds[values["mode"]],
        "metadata": {"name": name},
        "spec": spec,
    }


def conforms(one: Document, schema: Document) -> None:
    """Compare a document with a schema, which is no part of the question."""
    jsonschema.Draft202012Validator(schema).validate(one)


def check_core(core: Document) -> None:
    """Compare an object of one of Kubernetes' own kinds with its schema."""
    kubernetes_validate.validate(json.loads(json.dumps(core)), VERSION, strict=True)


def check_chart(values: Document) -> None:
    """Compare values with what the chart takes, and what it makes of them with Kubernetes."""
    conforms(values, schemas.COLLECTOR_CHART)
    for made in made_by_chart(values):
        check_core(made)


def check_stack(values: Document) -> None:
    """Compare values with what kube-prometheus-stack takes, and its monitors with their kind."""
    conforms(values, schemas.STACK_CHART)
    for monitor in values["prometheus"]["additionalServiceMonitors"]:
        spec = {key: one for key, one in monitor.items() if key not in {"name", "additionalLabels"}}
        made = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": {"name": monitor["name"]},
            "spec": spec,
        }
        conforms(made, schemas.OPERATOR["ServiceMonitor"])


CHECKS: dict[str, Callable[[Document], None]] = {
    "prometheus-rule": lambda one: conforms(one, schemas.OPERATOR["PrometheusRule"]),
    "dashboard": check_core,
    "kube-prometheus-stack": check_stack,
    "app": lambda one: check_core(patched(one)),
    **dict.fromkeys(COLLECTORS, check_chart),
}
"""How each file is checked."""
INVALID = (jsonschema.ValidationError, kubernetes_validate.ValidationError, KeyError)
"""What a check raises. A KeyError: the chart would miss what it needs."""


def misspelt(one: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each copy of a document in which one field is misspelt, with where it is."""
    if isinstance(one, dict):
        for key in one:
            if not path or path[-1] not in FREE:
                where = ".".join(map(str, (*path, key)))
                yield where, {f"{key}x" if name == key else name: one[name] for name in one}
            # The collector itself looks at its configuration.
            for where, inner in (
                misspelt(one[key], (*path, key)) if key != "alternateConfig" else ()
            ):
                yield where, {**one, key: inner}
    elif isinstance(one, list):
        for at, item in enumerate(one):
            for where, inner in misspelt(item, (*path, at)):
                yield where, [*one[:at], inner, *one[at + 1 :]]


def smaller(rule: Document) -> Document:
    """A PrometheusRule with one rule of each form, in place of hundreds."""
    less = copy.deepcopy(rule)
    (first, *_), forms = less["spec"]["groups"], {}
    for group in rule["spec"]["groups"]:
        for one in group["rules"]:
            forms[frozenset(one)] = one
    first["rules"] = list(forms.values())
    less["spec"]["groups"] = [first]
    return less
