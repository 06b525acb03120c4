"""Writes what Kubernetes needs, from the files of the folder above: python generate.py.

The alert rules as a PrometheusRule, the dashboard as a ConfigMap, and values for the charts
kube-prometheus-stack and opentelemetry-collector. Run it again when one of those files has changed.
app.yaml is written by hand. It needs no package but PyYAML.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import yaml

HERE = Path(__file__).parent
CONFIG = HERE.parent
CHART = "0.158.3"
"""The version of the chart opentelemetry-collector that the values are for."""
STACK = "81.4.5"
"""The version of the chart kube-prometheus-stack that the values are for."""
GATEWAY = "assisters-otel-collector-gateway.observability.svc"
JAEGER = "jaeger.observability.svc"
PROMETHEUS = "kube-prometheus-stack-prometheus.monitoring.svc"

RULE = """\
# {made_from}
#
#   kubectl apply --namespace monitoring -f prometheus-rule.yaml

apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: assisters-otel
  labels:
    app.kubernetes.io/name: assisters-otel
spec:
"""

DASHBOARD = """\
# {made_from}
# The sidecar of Grafana in kube-prometheus-stack finds it by its label.
#
#   kubectl apply --namespace monitoring -f dashboard.yaml

apiVersion: v1
kind: ConfigMap
metadata:
  name: assisters-otel-dashboard
  labels:
    app.kubernetes.io/name: assisters-otel
    grafana_dashboard: "1"
data:
  assisters-otel.json: |
"""

STACK_VALUES = """\
# {made_from}
# Values for the chart kube-prometheus-stack, {stack}.
#
#   helm upgrade --install kube-prometheus-stack prometheus-community/kube-prometheus-stack \\
#     --version {stack} --namespace monitoring --create-namespace -f kube-prometheus-stack.yaml
#
# What holds an alert back while a worse one fires is in ../alertmanager.yaml: put its inhibit_rules into
# alertmanager.config.inhibit_rules, behind those that the chart has there.

prometheus:
  prometheusSpec:
    # Gateways, and apps without a collector, send to /api/v1/otlp.
    enableOTLPReceiver: true
    # exemplar-storage leads from a point to its trace. With created-timestamp-zero-ingestion a counter that
    # is born at 1 counts as an increase, so that the first revoked key is seen at once.
    enableFeatures: [{features}]
    exemplars: {{maxSize: {exemplars}}}
    otlp:
      # The labels that the shipped collector makes.
      promoteResourceAttributes:
{attributes}
    # Two senders, or one that tries again, are not in order.
    tsdb: {{outOfOrderTimeWindow: {window}}}
    # Rules and monitors of other charts than this one are read too.
    ruleSelectorNilUsesHelmValues: false
    serviceMonitorSelectorNilUsesHelmValues: false
    podMonitorSelectorNilUsesHelmValues: false

  additionalServiceMonitors:
    # What the apps sent, as the collector of collector.yaml shows it. Their own `job` and `instance` stay. Agents
    # and gateways are not scraped for it: gateways send to Prometheus by themselves.
    - name: assisters-otel-collector
      namespaceSelector: {{any: true}}
      selector:
        matchLabels:
          app.kubernetes.io/name: opentelemetry-collector
          app.kubernetes.io/instance: assisters-collector
      endpoints:
        - {{port: apps, honorLabels: true, interval: {interval}}}

grafana:
  sidecar:
    dashboards: {{enabled: true, label: grafana_dashboard, labelValue: "1", searchNamespace: ALL}}
    datasources:
      # A point's exemplar names its trace.
      exemplarTraceIdDestinations: {{datasourceUid: jaeger, traceIdLabelName: trace_id}}
  additionalDataSources:
    - name: Jaeger
      uid: jaeger
      type: jaeger
      access: proxy
      url: http://{jaeger}:16686
"""

COMMON = """\
image: {{repository: {repository}, tag: "{tag}"}}
command: {{name: otelcol-contrib}}
resources:
  requests: {{cpu: 100m, memory: 256Mi}}
  limits: {{memory: 1Gi}} # MEMORY_LIMIT_MIB, 512 by itself, has to stay well below it
"""

NO_PORTS = """\
  jaeger-compact: {enabled: false}
  jaeger-thrift: {enabled: false}
  jaeger-grpc: {enabled: false}
  zipkin: {enabled: false}
"""

TELEMETRY = """\
# What the rules ask of the collector itself.
podMonitor:
  enabled: true
  metricsEndpoints:
    - {{port: metrics, interval: {interval}}}

# The chart takes this in place of a configuration of its own.
alternateConfig:
"""

LISTEN = """\
  # What a pod has to set to be reached from outside it, as by a probe: without these it listens on loopback.
  # Where addresses are those of IPv6, write [::] in place of 0.0.0.0.
"""

COLLECTOR_VALUES = """\
# {made_from}
# Values for the chart opentelemetry-collector, {chart}: one collector for all apps. Jaeger is at
# {jaeger}:4317.
#
#   helm upgrade --install assisters-collector open-telemetry/opentelemetry-collector \\
#     --version {chart} --namespace observability --create-namespace -f collector.yaml
#
# One copy of it: see the head of ../collector.yaml. For more, agent.yaml and gateway.yaml are the form.

mode: deployment
replicaCount: 1
rollout: {{strategy: Recreate}} # never two at once
fullnameOverride: assisters-otel-collector
{common}terminationGracePeriodSeconds: 30
ports:
  otlp: {{enabled: true, containerPort: 4317, servicePort: 4317, protocol: TCP, appProtocol: grpc}}
  otlp-http: {{enabled: true, containerPort: 4318, servicePort: 4318, protocol: TCP}}
  apps: {{enabled: true, containerPort: 8889, servicePort: 8889, protocol: TCP}}
  metrics: {{enabled: true, containerPort: 8888, servicePort: 8888, protocol: TCP}}
{no_ports}
extraEnvs:
{listen}  - {{name: OTLP_GRPC_LISTEN, value: "0.0.0.0:4317"}}
  - {{name: OTLP_HTTP_LISTEN, value: "0.0.0.0:4318"}}
  - {{name: PROMETHEUS_EXPORTER_LISTEN, value: "0.0.0.0:8889"}}
  - {{name: COLLECTOR_TELEMETRY_HOST, value: 0.0.0.0}}
  - {{name: HEALTH_LISTEN, value: "0.0.0.0:13133"}}
  # Where it sends to.
  - {{name: JAEGER_OTLP_ENDPOINT, value: "{jaeger}:4317"}}

{telemetry}"""

AGENT_VALUES = """\
# {made_from}
# Values for the chart opentelemetry-collector, {chart}: an agent on each node. Apps reach it at their
# node's address (app.yaml), and it reaches the gateways of gateway.yaml by their headless service.
#
#   helm upgrade --install assisters-agent open-telemetry/opentelemetry-collector \\
#     --version {chart} --namespace observability --create-namespace -f agent.yaml
#
# The secret assisters-agent-tls holds tls.crt and tls.key, and the authority of the gateways as ca.crt.

mode: daemonset
fullnameOverride: assisters-otel-collector-agent
tolerations:
  - {{operator: Exists}} # an app on any node needs it
{common}terminationGracePeriodSeconds: 30
ports:
  otlp: {{enabled: true, containerPort: 4317, servicePort: 4317, hostPort: 4317, protocol: TCP, appProtocol: grpc}}
  otlp-http: {{enabled: true, containerPort: 4318, servicePort: 4318, hostPort: 4318, protocol: TCP}}
  metrics: {{enabled: true, containerPort: 8888, servicePort: 8888, protocol: TCP}}
{no_ports}
# The folder of the queue is the node's, which belongs to root.
securityContext:
  runAsUser: 0
  runAsGroup: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {{drop: [ALL]}}

# What is acknowledged stays on the node's disk until a gateway has it, also while the pod is replaced.
extraVolumes:
  - name: queue
    hostPath: {{path: /var/lib/assisters-otelcol, type: DirectoryOrCreate}}
  - name: tls
    secret: {{secretName: assisters-agent-tls}}
extraVolumeMounts:
  - {{name: queue, mountPath: /var/lib/otelcol}}
  - {{name: tls, mountPath: /etc/otelcol/tls, readOnly: true}}

extraEnvs:
{listen}  - {{name: OTLP_GRPC_LISTEN, value: "0.0.0.0:4317"}}
  - {{name: OTLP_HTTP_LISTEN, value: "0.0.0.0:4318"}}
  - {{name: COLLECTOR_TELEMETRY_HOST, value: 0.0.0.0}}
  - {{name: HEALTH_LISTEN, value: "0.0.0.0:13133"}}
  # Where it sends to. The service has an address for each gateway, and their certificates its name.
  - {{name: GATEWAY_SERVICE, value: {gateway}}}
  - {{name: GATEWAY_TLS_NAME, value: {gateway}}}
  - {{name: TLS_CA, value: /etc/otelcol/tls/ca.crt}}
  - {{name: AGENT_TLS_CERT, value: /etc/otelcol/tls/tls.crt}}
  - {{name: AGENT_TLS_KEY, value: /etc/otelcol/tls/tls.key}}
  - {{name: QUEUE_DIRECTORY, value: /var/lib/otelcol/queue}}

{telemetry}"""

GATEWAY_VALUES = """\
# {made_from}
# Values for the chart opentelemetry-collector, {chart}: the gateways behind the agents, each with a queue on
# a volume of its own. Jaeger is at {jaeger}:4317, Prometheus at
# {prometheus}:9090.
#
#   helm upgrade --install assisters-gateway open-telemetry/opentelemetry-collector \\
#     --version {chart} --namespace observability --create-namespace -f gateway.yaml
#
# The secret assisters-gateway-tls holds tls.crt and tls.key, for the name
# {gateway}, and the authority of the agents as ca.crt.

mode: statefulset
replicaCount: 2
fullnameOverride: assisters-otel-collector-gateway
# Without an address of its own the service has one for each gateway. The agents give all spans of a trace to
# the same one.
service: {{enabled: true, type: ClusterIP, clusterIP: "None"}}
podDisruptionBudget: {{enabled: true, minAvailable: 1}}
{common}# SIGTERM decides about the traces that are held, and delivers.
terminationGracePeriodSeconds: 60
ports:
  otlp: {{enabled: true, containerPort: 4317, servicePort: 4317, protocol: TCP, appProtocol: grpc}}
  otlp-http: {{enabled: false}}
  metrics: {{enabled: true, containerPort: 8888, servicePort: 8888, protocol: TCP}}
{no_ports}
podSecurityContext: {{runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {{drop: [ALL]}}

statefulset:
  volumeClaimTemplates:
    - metadata: {{name: queue}}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {{requests: {{storage: 10Gi}}}}
extraVolumes:
  - name: tls
    secret: {{secretName: assisters-gateway-tls}}
extraVolumeMounts:
  - {{name: queue, mountPath: /var/lib/otelcol}}
  - {{name: tls, mountPath: /etc/otelcol/tls, readOnly: true}}

extraEnvs:
{listen}  - {{name: OTLP_GRPC_LISTEN, value: "0.0.0.0:4317"}}
  - {{name: COLLECTOR_TELEMETRY_HOST, value: 0.0.0.0}}
  - {{name: COLLECTOR_TELEMETRY_PORT, value: "8888"}}
  - {{name: HEALTH_LISTEN, value: "0.0.0.0:13133"}}
  # Where it sends to.
  - {{name: JAEGER_OTLP_ENDPOINT, value: "{jaeger}:4317"}}
  - {{name: PROMETHEUS_OTLP_ENDPOINT, value: "http://{prometheus}:9090/api/v1/otlp"}}
  - {{name: TLS_CA, value: /etc/otelcol/tls/ca.crt}}
  - {{name: GATEWAY_TLS_CERT, value: /etc/otelcol/tls/tls.crt}}
  - {{name: GATEWAY_TLS_KEY, value: /etc/otelcol/tls/tls.key}}
  - {{name: QUEUE_DIRECTORY, value: /var/lib/otelcol/queue}}

{telemetry}"""

RESOLVER = re.compile(r"( +)# In Kubernetes take .*\n +# dns: .*\n +static: .*\n")
"""The lines of agent.yaml that name the gateways."""


def generate(config: Path = CONFIG) -> dict[str, str]:
    """Return each file's text, by its name.

    Args:
        config: The folder with the files for servers that no cluster runs.
    """
    prometheus = yaml.safe_load(config.joinpath("prometheus.yaml").read_text("utf-8"))
    services = yaml.safe_load(config.joinpath("compose.yaml").read_text("utf-8"))["services"]
    interval = prometheus["global"]["scrape_interval"]
    repository, _, tag = services["collector"]["image"].partition(":")
    (features,) = (
        word.partition("=")[2]
        for word in services["prometheus"]["command"]
        if word.startswith("--enable-feature=")
    )
    told = {
        "chart": CHART, "stack": STACK, "interval": interval, "gateway": GATEWAY, "jaeger": JAEGER,
        "prometheus": PROMETHEUS, "listen": LISTEN, "no_ports": NO_PORTS,
        "common": COMMON.format(repository=repository, tag=tag),
        "telemetry": TELEMETRY.format(interval=interval),
        "features": features.replace(",", ", "),
        "exemplars": prometheus["storage"]["exemplars"]["max_exemplars"],
        "window": prometheus["storage"]["tsdb"]["out_of_order_time_window"],
        "attributes": "\n".join(
            f"        - {name}" for name in prometheus["otlp"]["promote_resource_attributes"]
        ),
    }  # fmt: skip

    def filled(template: str, *sources: str) -> str:
        names = " and ".join(f"../{source}" for source in sources)
        return template.format(made_from=f"Made by generate.py of {names}.", **told)

    def values(template: str, source: str) -> str:
        return filled(template, source) + textwrap.indent(_body(config / source), "  ")

    return {
        "prometheus-rule.yaml": filled(RULE, "alerts.yaml")
        + textwrap.indent(_groups(config, prometheus["global"]["evaluation_interval"]), "  "),
        "dashboard.yaml": filled(DASHBOARD, "dashboard.json")
        + textwrap.indent(config.joinpath("dashboard.json").read_text("utf-8"), "    "),
        "kube-prometheus-stack.yaml": filled(STACK_VALUES, "prometheus.yaml", "compose.yaml"),
        "collector.yaml": values(COLLECTOR_VALUES, "collector.yaml"),
        "agent.yaml": values(AGENT_VALUES, "agent.yaml"),
        "gateway.yaml": values(GATEWAY_VALUES, "gateway.yaml"),
    }


def _groups(config: Path, interval: str) -> str:
    """Return the rules' groups. One without an interval has the one that it is tested with."""
    text = config.joinpath("alerts.yaml").read_text("utf-8")
    groups = text[text.index("\ngroups:\n") + 1 :]
    return re.sub(
        r"^  - name: .+$", rf"\g<0>\n    interval: {interval}", groups, flags=re.MULTILINE
    )


def _body(path: Path) -> str:
    """Return a collector's configuration without the head of its file.

    Raises:
        ValueError: agent.yaml does not name the gateways as it did.
    """
    _, _, text = path.read_text("utf-8").partition("\n\n")
    if path.name == "agent.yaml":
        dns = r'\1dns: {hostname: "${env:GATEWAY_SERVICE}", port: "4317"}\n'
        text, found = RESOLVER.subn(dns, text)
        if found != 1:
            raise ValueError(f"{path}: no resolver of gateways to replace. Correct RESOLVER")
    return text


def main() -> None:
    """Write the files."""
    for name, text in generate().items():
        HERE.joinpath(name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
