"""Read downwards: a package imports only what stands above it, typing-only imports included."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import assisters_otel

ROOT = Path(assisters_otel.__file__).parent

ORDER = (
    ("records",),
    ("version", "semconv", "own_export", "weak_identity", "catalog", "foreign_exceptions"),
    ("otel_api", "logger", "api"),
    ("fail_safe",),
    ("baggage_names", "causes", "hosts", "variables"),
    ("outcomes", "config"),
    ("attempts",),
    ("resends", "sinks"),
    ("recording",),
    ("clients", "providers"),
    ("process",),
    ("runtimes",),
    ("instrumentation",),
    ("instrumentor",),
    ("telemetry", "global_providers"),
    ("startup",),
    ("explanation", "testing"),
    ("__init__",),
    ("cli", "pyinstaller_hooks"),
    ("__main__",),
)
"""Packages, and modules that are in none. Those of one row do not know each other."""

ONLY = {
    "providers": {
        "api",
        "config",
        "hosts",
        "logger",
        "own_export",
        "records",
        "semconv",
        "variables",
    },
    "explanation": {
        *("api", "catalog", "causes", "foreign_exceptions", "outcomes", "records", "sinks"),
        "version",
    },
    "testing": {
        *("api", "catalog", "config", "fail_safe", "hosts", "instrumentation", "instrumentor"),
        *("logger", "process", "records", "semconv", "telemetry", "variables", "weak_identity"),
    },
}
"""Towers and doors: what they may import of what stands above them."""

PURE = ("api", "catalog", "causes", "outcomes")
IMPURE = {"time", "logging", "socket", "threading", "os", "random", "opentelemetry"}
VALUES = ("opentelemetry.semconv.", "opentelemetry.trace.SpanContext")
CLIENTS = (
    *("clients.httpx", "clients.requests", "clients.aiohttp"),
    *("clients.openai", "clients.assisters"),
)

HANDED_ON = {
    "self._keep(error, handled)",
    "_show_later(reader, error, began_s)",
    "delivery.failed(failure_of(error))",
    "future.set_exception(error)",
}

FORMS = (
    ("clients.retries", "_in_one_send", "_in_one_send_async"),
    ("clients.openai", "_wrap_parse", "_wrap_async_parse"),
    ("clients.openai", "_wrap_close", "_wrap_async_close"),
    ("clients.httpx.adapter", "_wrap", "_wrap_async"),
    ("clients.httpx.chunks", "Chunks", "AsyncChunks"),
    ("clients.httpx.streams", "SyncStream.read_ahead", "AsyncStream.read_ahead"),
    ("clients.httpx.streams", "SyncStream.__iter__", "AsyncStream.__aiter__"),
    ("clients.httpx.streams", "SyncStream._replay", "AsyncStream._replay"),
)
"""Functions and classes that are written twice, by their modules."""

ONLY_ASYNC = {
    "clients.httpx.chunks": {"_no_async_method"},
    "clients.httpx.streams": {"aclose"},  # reads to the end what an event loop would report
    "clients.openai": {"request"},  # a coroutine can be closed in another context than its own
}
"""Async functions without such a form, but those of aiohttp, which is async alone."""

ASYNC_WORDS = (
    (r"\b(async|await) ", ""),
    (r"Async|_async(?=_|\b)|\basync_|\bSync(?=[A-Z])|\bsync_", ""),
    (r"\b(__)?a(?=(iter|next|close|send|throw)\b|(iter|next)__)", r"\1"),
    (r"for part in rest:\s+yield part", "yield from rest"),
)
"""The words of one form that the other one has not."""

MAX_LINES = 300
MIN_LINES = 15


@cache
def modules():
    """Return each module, by its name in the package, with its syntax tree."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        found[".".join(parts)] = ast.parse(path.read_text())
    return found


def imported(tree):
    """Return every name that a module imports, for types or at run time, with its package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows():
    """Return which module of the package imports which."""
    found = set()
    for name, tree in modules().items():
        for full in imported(tree):
            if full.startswith("assisters_otel."):
                to = full.removeprefix("assisters_otel.")
                while to and to not in modules():
                    to = to.rpartition(".")[0]
                found.add((name, to or "__init__"))
    return found


def room(name):
    return name.partition(".")[0]


def named(pairs):
    return {f"{one} -> {other}" for one, other in pairs}


def circles(known):
    """Return the nodes from which a way leads back to them."""
    after = {one: {to for frm, to in known if frm == one} for one, _ in known}

    def reached(start):
        seen, left = set(), [start]
        while left:
            for one in after.get(left.pop(), set()) - seen:
                seen.add(one)
                left.append(one)
        return seen

    return {one for one in after if one in reached(one)}


def test_every_package_has_its_place():
    placed = [name for row in ORDER for name in row]

    assert sorted({room(name) for name in modules()}) == sorted(placed)


def test_a_package_imports_only_what_stands_above_it():
    row = {name: at for at, names in enumerate(ORDER) for name in names}
    upwards = {
        (one, other)
        for one, other in arrows()
        if room(one) != room(other)
        and (
            row[room(other)] >= row[room(one)]
            or room(other) not in ONLY.get(room(one), {room(other)})
        )
    }

    assert named(upwards) == set()


def test_no_package_is_in_a_circle():
    between = {(room(one), room(other)) for one, other in arrows() if room(one) != room(other)}
    found = circles(between)
    rooms = len({room(name) for name in modules()})
    print(f"{rooms} packages, {len(between)} arrows, {len(found)} in circles")  # noqa: T201

    assert not found


def test_no_module_is_in_a_circle():
    assert circles(arrows()) == set()


def test_clients_know_no_sink_but_what_is_foreign():
    found = {
        (one, other)
        for one, other in arrows()
        if room(one) == "clients" and room(other) == "sinks" and other != "sinks.foreign_span"
    }

    assert named(found) == set()


def test_a_client_does_not_know_another():
    def client(name):
        return next((one for one in CLIENTS if f"{name}.".startswith(f"{one}.")), None)

    found = {
        (one, other)
        for one, other in arrows()
        if client(one) and client(other) and client(one) != client(other)
    }

    assert named(found) == set()


@pytest.mark.parametrize("pure", PURE)
def test_the_pure_have_no_clock_socket_or_logger(pure):
    for name, tree in modules().items():
        if room(name) == pure:
            asked = {one for one in imported(tree) if not one.startswith(VALUES)}
            assert not {room(one) for one in asked} & IMPURE, name


def test_no_file_is_long_and_none_is_a_crumb():
    lines = {name: len(path_of(name).read_text().splitlines()) for name in modules()}
    constants = {name for name, tree in modules().items() if not has_code(tree)}
    files = {name for name in lines if not path_of(name).name.startswith("__")}

    assert {name for name, n in lines.items() if n > MAX_LINES} == set()
    assert not {name for name in files - constants if lines[name] < MIN_LINES}


def path_of(name):
    path = ROOT / Path(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def has_code(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    return any(isinstance(node, kinds) for node in tree.body)


def test_any_stands_where_the_client_s_types_are_unknown():
    """Beside clients/ and runtimes/: foreign spans, gevent, what wraps providers, sends or logs.

    And a class's namespace, in `records`.
    """
    allowed = {
        "records",
        *("instrumentor", "process", "startup", "telemetry"),
        *("providers.exporter_logs", "providers.otlp_grpc", "providers.otlp_http"),
        "providers.otlp_responses",
        *("sinks.attempt_span", "sinks.foreign_span"),
    }
    found = {
        name
        for name, tree in modules().items()
        if room(name) not in {"clients", "runtimes", "testing", "cli"}
        and "typing.Any" in set(imported(tree))
    }

    assert found == allowed


def test_exactly_one_place_swallows_exceptions():
    """But for a line of the log that cannot be written, which cannot be told either.

    Others hand them on: to the caller's read, to who waits for a future.
    """
    swallowing = []
    for name, tree in modules().items():
        if room(name) in {"testing", "cli", "__main__"}:
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


def test_no_function_that_is_made_at_each_request_is_decorated():
    """The list of what is decorated would grow with each, and the request would pay for it."""
    within = [
        f"{name}: {inner.name}"
        for name, tree in modules().items()
        if name != "fail_safe"
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.FunctionDef)
        and inner is not outer
        and any("fail_safe" in ast.unparse(decorator) for decorator in inner.decorator_list)
    ]

    assert within == []


def found(tree, path):
    for name in path.split("."):
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        (tree,) = (n for n in ast.walk(tree) if isinstance(n, defined) and n.name == name)
    return tree


def said(tree, path):
    """Return what a function or a class does, without its name, its docstring and `await`."""
    node = found(tree, path)
    if ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    text = "\n".join(map(ast.unparse, node.body))
    for word, instead in ASYNC_WORDS:
        text = re.sub(word, instead, text)
    return text


@pytest.mark.parametrize(("module", "form", "async_form"), FORMS)
def test_the_sync_and_the_async_form_of_a_step_differ_in_await_alone(module, form, async_form):
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())

    assert said(tree, form) == said(tree, async_form)
    assert "await" not in said(tree, async_form)


def test_an_async_step_has_a_sync_form_or_a_reason():
    alone = {}
    for name, tree in modules().items():
        if name.startswith("clients.") and not name.startswith("clients.aiohttp"):
            twins = [found(tree, form) for module, _, form in FORMS if module == name]
            inside = {id(node) for twin in twins for node in ast.walk(twin)}
            here = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.AsyncFunctionDef) and id(node) not in inside
            }
            alone |= {name: here} if here else {}

    assert alone == ONLY_ASYNC
