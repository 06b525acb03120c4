"""What the kinds and charts that the files for Kubernetes use may have in them, as JSON schemas.

Each is a part of the real one: the fields that are named here are there, with this type, and no
other field passes. Kubernetes' own kinds are in the package kubernetes-validate. Sources:

* `OPERATOR`: the Go types of the module
  github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring, v0.95.2, package v1.
* `COLLECTOR_CHART`: the schema and templates of the chart opentelemetry-collector, 0.158.3.
* `STACK_CHART`: the values of the chart kube-prometheus-stack, 81.4.5. It has no schema.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
ANYTHING: Schema = {"type": "object"}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
DURATION: Schema = {"type": "string", "pattern": r"^(\d+(ms|[smhdwy]))+$"}
NUMBER_OR_TEXT: Schema = {"type": ["integer", "string"]}


def fields(*required: str, **known: Schema) -> Schema:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": known,
        "required": list(required),
    }


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


METADATA = fields("name", name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS)
SELECTOR = fields(matchLabels=LABELS, matchExpressions=many(ANYTHING))
RULE = fields(
    "expr", expr=NUMBER_OR_TEXT, record=TEXT, alert=TEXT, labels=LABELS, annotations=LABELS,
    **{"for": DURATION, "keep_firing_for": DURATION},
)  # fmt: skip
RULE_GROUP = fields(
    "name", name=TEXT, labels=LABELS, interval=DURATION, query_offset=DURATION, limit=NUMBER,
    partial_response_strategy=TEXT, rules=many(RULE),
)  # fmt: skip
ENDPOINT = fields(
    port=TEXT, targetPort=NUMBER_OR_TEXT, path=TEXT, scheme=TEXT, interval=DURATION,
    scrapeTimeout=DURATION, honorLabels=FLAG, honorTimestamps=FLAG, trackTimestampsStaleness=FLAG,
    filterRunning=FLAG, metricRelabelings=many(ANYTHING), relabelings=many(ANYTHING),
)  # fmt: skip
"""Of a ServiceMonitor, and of a PodMonitor."""
NAMESPACES = fields(any=FLAG, matchNames=TEXTS)
OPERATOR = {
    "PrometheusRule": fields(
        "apiVersion", "kind", "metadata", "spec",
        apiVersion={"const": "monitoring.coreos.com/v1"}, kind={"const": "PrometheusRule"},
        metadata=METADATA, spec=fields("groups", groups=many(RULE_GROUP)),
    ),
    "ServiceMonitor": fields(
        "apiVersion", "kind", "metadata", "spec",
        apiVersion={"const": "monitoring.coreos.com/v1"}, kind={"const": "ServiceMonitor"},
        metadata=METADATA,
        spec=fields(
            "endpoints", "selector", jobLabel=TEXT, targetLabels=TEXTS, podTargetLabels=TEXTS,
            endpoints=many(ENDPOINT), selector=SELECTOR, namespaceSelector=NAMESPACES,
            sampleLimit=NUMBER, attachMetadata=ANYTHING, scrapeClass=TEXT,
        ),
    ),
    "PodMetricsEndpoint": ENDPOINT,
    "PrometheusSpec": fields(
        enableOTLPReceiver=FLAG, enableFeatures=TEXTS, exemplars=fields(maxSize=NUMBER),
        tsdb=fields(outOfOrderTimeWindow=DURATION), evaluationInterval=DURATION,
        otlp=fields(
            promoteAllResourceAttributes=FLAG, ignoreResourceAttributes=TEXTS,
            promoteResourceAttributes=TEXTS, translationStrategy=TEXT,
            keepIdentifyingResourceAttributes=FLAG, convertHistogramsToNHCB=FLAG,
            promoteScopeMetadata=FLAG,
        ),
    ),
}  # fmt: skip

PORT = fields(
    "enabled", enabled=FLAG, containerPort=NUMBER, servicePort=NUMBER, hostPort=NUMBER,
    nodePort=NUMBER, protocol=TEXT, appProtocol=TEXT,
)  # fmt: skip
PORTS = (
    *("otlp", "otlp-http", "metrics", "jaeger-compact", "jaeger-thrift", "jaeger-grpc", "zipkin"),
    "apps",
)
"""The ports that the chart has by itself, and the one that is added here."""
AMOUNTS = fields(cpu=NUMBER_OR_TEXT, memory=TEXT, **{"ephemeral-storage": TEXT})
COLLECTOR_CHART = fields(
    "mode",
    mode={"enum": ["daemonset", "deployment", "statefulset"]}, replicaCount=NUMBER,
    fullnameOverride=TEXT, nameOverride=TEXT, namespaceOverride=TEXT,
    image=fields(repository=TEXT, tag=TEXT, digest=TEXT, pullPolicy=TEXT),
    command=fields(name=TEXT, extraArgs=TEXTS),
    resources=fields(limits=AMOUNTS, requests=AMOUNTS),
    ports=fields(**dict.fromkeys(PORTS, PORT)),
    service=fields(
        enabled=FLAG, clusterIP=TEXT, annotations=LABELS, internalTrafficPolicy=TEXT,
        type={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    ),
    podMonitor=fields("enabled", enabled=FLAG, metricsEndpoints=many(ENDPOINT), extraLabels=LABELS),
    podDisruptionBudget=fields(
        "enabled", enabled=FLAG, minAvailable=NUMBER_OR_TEXT, maxUnavailable=NUMBER_OR_TEXT
    ),
    rollout=fields(
        "strategy", strategy={"enum": ["OnDelete", "Recreate", "RollingUpdate"]},
        rollingUpdate=ANYTHING,
    ),
    statefulset=fields(volumeClaimTemplates=many(ANYTHING), podManagementPolicy=TEXT),
    # What the chart copies into the pod: that is compared with Kubernetes' own schemas.
    tolerations=many(ANYTHING), terminationGracePeriodSeconds=NUMBER, podSecurityContext=ANYTHING,
    securityContext=ANYTHING, extraVolumes=many(ANYTHING), extraVolumeMounts=many(ANYTHING),
    extraEnvs=many(ANYTHING),
    alternateConfig=ANYTHING,
)  # fmt: skip

STACK_CHART = fields(
    prometheus=fields(
        prometheusSpec={
            **OPERATOR["PrometheusSpec"],
            "properties": {
                **OPERATOR["PrometheusSpec"]["properties"],
                "ruleSelectorNilUsesHelmValues": FLAG,
                "serviceMonitorSelectorNilUsesHelmValues": FLAG,
                "podMonitorSelectorNilUsesHelmValues": FLAG,
            },
        },
        additionalServiceMonitors=many(fields(
            "name", "selector", "endpoints", name=TEXT, additionalLabels=LABELS, jobLabel=TEXT,
            targetLabels=TEXTS, podTargetLabels=TEXTS, selector=SELECTOR,
            namespaceSelector=NAMESPACES, endpoints=many(ENDPOINT),
        )),
    ),
    grafana=fields(
        additionalDataSources=many(
            fields("name", "type", name=TEXT, uid=TEXT, type=TEXT, access=TEXT, url=TEXT)
        ),
        sidecar=fields(
            dashboards=fields(enabled=FLAG, label=TEXT, labelValue=TEXT, searchNamespace=TEXT),
            datasources=fields(
                enabled=FLAG,
                exemplarTraceIdDestinations=fields(datasourceUid=TEXT, traceIdLabelName=TEXT),
            ),
        ),
    ),
)  # fmt: skip
