"""A module imports only what stands above it. Read downwards: this is the order."""

from __future__ import annotations

import ast
from pathlib import Path

import assisters_otel

ROOT = Path(assisters_otel.__file__).parent
ORDER = [
    "api.endpoints",
    "providers.signals",
    "clients.aiohttp.request_reader",
    "clients.aiohttp.session_request",
    "clients.import_hooks",
    "clients.read_ahead",
    "clients.rebinding",
    "clients.patching",
    "clients.sdk_call",
    "clients.requests.request_reader",
    "attempts.clock",
    "attempts.control_flow",
    "attempts.retry_chain",
    "otel_api.providers",
    "otel_api.http_spans",
    "foreign_exceptions",
    "own_export",
    "api.limits",
    "clients.requests.read_ahead",
    "api.content_encoding",
    "api.redaction",
    "providers.exporter_logs",
    "providers.exporters",
    "providers.tls_files",
    "providers.otlp_grpc",
    "sinks.foreign_span",
    "api.headers",
    "api.request",
    "semconv.attributes",
    "sinks.attempt_span",
    "sinks.stream_span",
    "sinks.call_span",
    "variables.values",
    "variables.rules",
    "semconv.environment",
    "hosts",
    "semconv.metrics",
    "version",
    "catalog",
    "outcomes",
    "resends.tracker",
    "attempts.call",
    "api.error_body",
    "attempts.attempt",
    "api.event_stream",
    "variables.corrections",
    "causes",
    "explanation.evidence",
    "logger",
    "config",
    "providers.entry_points",
    "providers.otlp_http",
    "providers.otlp_settings",
    "providers.delivery",
    "providers.exporter_specs",
    "providers.workers",
    "sinks.failure_log",
    "sinks.label_values",
    "fail_safe",
    "weak_identity",
    "sinks.known_attempts",
    "explanation.explain",
    "recording.response_body",
    "recording.attempt",
    "sinks.metrics",
    "recording.recorder",
    "clients.classes",
    "clients.aiohttp.stream_reader",
    "clients.httpx.request_reader",
    "clients.httpx.streams",
    "clients.httpx.watched_streams",
    "clients.requests.urllib3_response",
    "clients.adapter",
    "clients.aiohttp.adapter",
    "clients.httpx.adapter",
    "clients.requests.request_copy",
    "clients.requests.adapter",
    "providers.owned_providers",
    "providers.build",
    "clients.retries",
    "clients.openai",
    "clients.assisters",
    "process",
    "runtimes.receivers",
    "runtimes.celery",
    "runtimes.rq",
    "runtimes.uvicorn",
    "runtimes",
    "instrumentation",
    "instrumentor",
    "telemetry",
    "startup",
]
DOORS = {"testing", "cli", "__main__"}
PURE = {
    "api.content_encoding",
    "api.endpoints",
    "api.error_body",
    "api.event_stream",
    "api.headers",
    "api.limits",
    "api.redaction",
    "api.request",
    "catalog",
    "causes",
    "outcomes",
}
HANDED_ON = {
    "self._keep(error, handled)",
    "_put_behind(reader, error)",
    "destination.failed(describe(error))",
    "future.set_exception(error)",
}
IMPURE = {"time", "logging", "socket", "threading", "os", "random"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__init__":
            yield ".".join(parts), ast.parse(path.read_text())
        elif parts[0] == "runtimes":  # which has more in it than names
            yield "runtimes", ast.parse(path.read_text())


def imported(tree):
    """What a module imports at run time: every name, with its package."""
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree):
    for name in imported(tree):
        if name.startswith("assisters_otel."):
            rest = name.removeprefix("assisters_otel.")
            yield next((m for m in ORDER if rest == m or rest.startswith(f"{m}.")), rest)


def test_every_module_has_its_place():
    found = {name for name, _ in modules() if name.partition(".")[0] not in DOORS}

    assert found == set(ORDER)


def test_a_module_imports_only_what_stands_above_it():
    for name, tree in modules():
        if name in ORDER:
            below = set(ORDER[ORDER.index(name) :])
            doors = {m for m in ours(tree) if m.partition(".")[0] in DOORS}
            assert not below & set(ours(tree)), name
            assert not doors, name


def test_the_pure_modules_have_no_clock_socket_or_logger():
    for name, tree in modules():
        if name in PURE:
            assert not {m.partition(".")[0] for m in imported(tree)} & IMPURE, name


def test_any_stands_where_the_client_s_types_are_unknown():
    """Beside clients/ and runtimes/: foreign spans, gevent, what wraps providers, sends or logs."""
    allowed = {
        "sinks.attempt_span",
        "semconv.attributes",
        "telemetry",
        "config",
        "startup",
        "sinks.foreign_span",
        "sinks.call_span",
        "sinks.stream_span",
        "instrumentor",
        "instrumentation",
        "providers.otlp_http",
        "providers.otlp_grpc",
    }
    allowed |= {"providers.delivery", "providers.exporter_logs", "process"}
    for name, tree in modules():
        if not name.startswith(("clients.", "runtimes", "testing", "cli")) and name not in allowed:
            assert "typing.Any" not in set(imported(tree)), name


def test_exactly_one_place_swallows_exceptions():
    """But for a line of the log that cannot be written, which cannot be told either.

    Others hand them on: to the caller's read, to who waits for a future.
    """
    swallowing = []
    for name, tree in modules():
        if name.partition(".")[0] in DOORS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            ):
                statements = [node for node in ast.walk(node) if isinstance(node, ast.stmt)]
                texts = set(map(ast.unparse, statements))
                raised = any(isinstance(statement, ast.Raise) for statement in statements)
                if not raised and not texts & HANDED_ON:
                    swallowing.append(name)

    assert swallowing == ["fail_safe"]
