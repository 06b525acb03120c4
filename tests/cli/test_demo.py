"""The command itself, in a process of its own, and from inside where something must go wrong."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.trace import SpanKind

from assisters_otel.cli.demo import playing, terminal
from assisters_otel.cli.demo.playing import DemoResult, PlayedScene
from assisters_otel.cli.demo.recording import Recording
from assisters_otel.cli.demo.scenes import SCENES
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.version import __version__
from otlp import Collector

CODES = [name for scene in SCENES for name in scene.errors if name]
STREAMED = [name for scene in SCENES for _, name in scene.streams if name]
LOGGED = [name for scene in SCENES if not scene.outcomes for name in scene.errors if name]
LOGGED += STREAMED
LOGGED += [
    scene.errors[-1]
    for scene in SCENES
    if not scene.streams
    for outcome in scene.outcomes
    if outcome == "failed"
]
COUNTED = CODES + STREAMED
ALONE = next(scene for scene in SCENES if not scene.outcomes and not any(scene.resends))


@pytest.fixture(scope="module")
def shown(run):
    return run("demo")


class Printed(NamedTuple):
    done: Any
    worked_s: float


@pytest.fixture(scope="module")
def printed(run):
    before_s = _children_worked_s()
    done = run("demo", "--json")
    return Printed(done, _children_worked_s() - before_s)


def _children_worked_s():
    times = os.times()
    return times.children_user + times.children_system


class Performed(NamedTuple):
    result: DemoResult
    waited_s: float


@pytest.fixture(scope="module")
def performed():
    before_s = time.monotonic() - time.process_time()
    done = playing.run_scenes(Recording(None))
    return Performed(done, time.monotonic() - time.process_time() - before_s)


@pytest.fixture
def again(monkeypatch, performed):
    """Show in another way what was played once."""
    monkeypatch.setattr(playing, "run_scenes", lambda _: performed.result)


@pytest.fixture
def short(monkeypatch):
    """One scene in place of all, to ask what does not depend on which: fast."""

    def play(api):
        ALONE.play(api)

    scene = ALONE._replace(title="short", play=play)
    monkeypatch.setattr(playing, "SCENES", (scene,))
    return scene


def codes(document):
    return [
        [a["attributes"].get("error.code", a["attributes"].get("error.type")) for a in s]
        for s in (scene["attempts"] for scene in document["scenes"])
    ]


# -- what is shown ------------------------------------------------------------------------------


def test_the_demo_shows_each_scene_s_error_codes_in_order(shown):
    assert (shown.code, shown.err) == (0, "")
    rest = shown.out
    for scene in SCENES:
        _, found, rest = rest.partition(scene.title)
        assert found
        for name in scene.errors:
            _, found, rest = rest.partition(f"{name or '200 ok'}  ")
            assert found, f"{name} of {scene.title}"


def test_a_failed_attempt_shows_all_that_its_span_says(shown):
    tree = shown.out.partition("model_overloaded")[0]

    assert "429 rate_limit_exceeded  POST /v1/chat/completions" in tree
    assert "type rate_limit_error, retryable yes, retry after 0.2 s" in tree
    assert "0 of 1000 requests left, 0 of 100000 tokens left" in tree
    assert "request id req_" in tree
    assert "to do: Wait as long as Retry-After says" in tree
    assert "param messages, retryable no" in shown.out


def test_the_metrics_count_each_error_once(shown):
    table = shown.out.partition("Metric ")[2].partition("What your log says")[0]

    for name in set(COUNTED):
        assert f" {COUNTED.count(name)}  {name}" in table
    assert f"{sum(len(scene.errors) for scene in SCENES)}  " in table
    assert "mean 0." in table
    for metric in (
        metric_names.ERRORS,
        metric_names.REQUEST_DURATION,
        metric_names.REQUESTS_REMAINING,
    ):
        assert metric.name in table


def test_a_call_is_shown_with_its_outcome_and_its_resends(shown):
    tree = shown.out.partition("loops that try")[0]
    loops = shown.out.partition("loops that try")[2].partition("errors that no retry")[0]

    assert re.search(
        r"└── recovered  chat assisters-chat-v1\n    2 retries, \d\.\d\d s between", tree
    )
    assert "resend 1 after rate_limit_exceeded, 0.2" in tree
    assert "resend 2 after model_overloaded, " in tree
    assert "resend 1 after api_key_revoked, 0.0" in loops
    assert " s later, no use\n" in loops
    assert " s later, earlier than asked\n" in loops


def test_the_metrics_count_retries_by_reason_and_calls_by_outcome(shown):
    table = " ".join(shown.out.partition("Metric ")[2].partition("What your log says")[0].split())

    assert "assisters.client.retries 1 after rate_limit_exceeded 1 after model_overloaded" in table
    assert "1 after api_key_revoked, no use" in table
    assert "1 after rate_limit_exceeded, earlier than asked" in table
    assert "assisters.client.call.attempts 1 recovered, mean 3 attempts" in table


def test_the_log_is_shown_in_its_place_and_shortened(shown):
    log = shown.out.partition("What your log says")[2].partition("What you write")[0]

    assert log.count("WARNING ") == 2
    assert f"and {len(LOGGED) - 2} lines more" in log
    assert shown.out.count("WARNING ") == 2


@pytest.mark.usefixtures("again")
@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal_and_none_has_colour_codes(call, shown, columns):
    out = shown.out if columns == 80 else call("demo", COLUMNS=str(columns)).out

    *lines, command = out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "demo --endpoint" in command  # stays whole, wherever this Python is
    assert "\x1b" not in out


@pytest.mark.usefixtures("again")
def test_an_ascii_terminal_is_no_reason_to_fail(call_in_ascii):
    code, out, err = call_in_ascii("demo")

    assert (code, err) == (0, "")
    assert out.isascii()
    assert "rate_limit_exceeded" in out


def test_a_span_between_a_scene_and_an_attempt_is_a_branch_of_the_tree(memory, capsys):
    tracer = memory.tracer_provider.get_tracer(names.SCOPE)
    with (
        tracer.start_as_current_span("a scene"),
        tracer.start_as_current_span("chat [model]", kind=SpanKind.CLIENT),
        tracer.start_as_current_span("POST", kind=SpanKind.CLIENT) as attempt,
    ):
        attempt.set_attribute("http.request.method", "POST")
        attempt.set_attribute("http.response.status_code", 200)
    attempt, call, scene = memory.spans()
    played = PlayedScene(SCENES[0], scene, (call, attempt))

    terminal.show(DemoResult((played,), (), (), (), None, ()))

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("└── chat [model]")
    assert lines[at + 1] == "└── 200 ok  POST"
    assert played.attempts == (attempt,)


# -- --json -------------------------------------------------------------------------------------


def test_json_has_each_stream_with_its_outcome(printed):
    told = [scene["streams"] for scene in json.loads(printed.done.out)["scenes"]]

    outcomes = [[s["attributes"]["assisters.stream.outcome"] for s in streams] for streams in told]
    assert outcomes == [[outcome for outcome, _ in scene.streams] for scene in SCENES]


def test_json_is_one_document_and_nothing_else(printed):
    done = printed.done
    document = json.loads(done.out)

    assert (done.code, done.err) == (0, "")
    assert codes(document) == [list(scene.errors) for scene in SCENES]
    assert (document["ok"], document["problems"]) == (True, [])
    assert (document["sent"], document["destinations"]) == (None, [])
    assert len(document["log"]) == len(LOGGED)
    points = {metric["name"]: metric["points"] for metric in document["metrics"]}
    assert points.keys() <= {metric.name for metric in metric_names.METRICS}
    assert points[metric_names.REQUESTS_REMAINING.name][0]["value"] == 999
    assert sum(point["value"] for point in points[metric_names.ERRORS.name]) == len(COUNTED)
    durations = points[metric_names.REQUEST_DURATION.name]
    assert sum(point["count"] for point in durations) == sum(len(s.errors) for s in SCENES)


def test_json_tells_of_calls_and_links_each_resend_to_the_attempt_before(printed):
    scenes = json.loads(printed.done.out)["scenes"]

    for scene, told in zip(SCENES, scenes, strict=True):
        outcomes = [call["attributes"]["assisters.call.outcome"] for call in told["calls"]]
        assert tuple(outcomes) == scene.outcomes
        ids = [attempt["span_id"] for attempt in told["attempts"]]
        for at, (attempt, resend) in enumerate(zip(told["attempts"], scene.resends, strict=True)):
            assert attempt["attributes"].get("http.request.resend_count", 0) == resend
            assert attempt["links"] == ([ids[at - 1]] if resend else [])
        for span in (*told["calls"], *told["attempts"], *told["streams"]):
            assert 0 < span["duration_s"] < 60


def test_the_demo_takes_less_than_ten_seconds(printed, performed):
    # What it works and what it waits: three on an idle machine, and hardly more on a busy one.
    assert printed.worked_s + performed.waited_s < 10


def test_an_attempt_is_a_child_of_its_scene_in_a_trace_of_its_own(call, short):
    document = json.loads(call("demo", "--json")[1])

    (scene,) = document["scenes"]
    assert scene["title"] == short.title
    for attempt in scene["attempts"]:
        assert attempt["parent_span_id"] == scene["span_id"]
        assert attempt["status"] == "ERROR"
        assert attempt["description"] == attempt["attributes"]["error.code"]


# -- where it goes ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["variable", "option"])
def test_the_same_telemetry_goes_to_an_otlp_endpoint(call, short, monkeypatch, how):
    with Collector() as collector:
        option = ["--endpoint", collector.endpoint]
        if how == "variable":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
            option = []
        code, out, err = call("demo", "--json", *option)
        spans, points = collector.spans(), collector.points(metric_names.ERRORS.name)

    document = json.loads(out)
    (scene,) = document["scenes"]
    assert (code, err, document["sent"]) == (0, "", True)
    assert {span.span_id: span.attributes for span in spans if span.kind == "CLIENT"} == {
        attempt["span_id"]: attempt["attributes"] for attempt in scene["attempts"]
    }
    assert {span.trace_id for span in spans} == {scene["trace_id"]}
    assert {span.resource["service.name"] for span in spans} == {"assisters-otel-demo"}
    assert {(p.attributes["error.code"], p.value) for p in points} == {
        (name, 1) for name in short.errors
    }


@pytest.mark.usefixtures("short")
def test_the_demo_says_where_telemetry_went(call):
    with Collector() as collector:
        code, out, _ = call("demo", "--endpoint", collector.endpoint)
        (trace_id,) = {span.trace_id for span in collector.spans()}

    assert code == 0
    assert "Sent as service assisters-otel-demo, by the trace ids above:" in out
    assert f"traces: otlp_proto_http {collector.endpoint}/v1/traces" in out
    assert f"metrics: otlp_proto_http {collector.endpoint}/v1/metrics" in out
    assert f"trace {trace_id}" in out


@pytest.mark.usefixtures("short")
def test_a_signal_without_an_endpoint_is_not_sent(call, monkeypatch):
    with Collector() as collector:
        traces = f"{collector.endpoint}/v1/traces"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces)
        code, out, err = call("demo", "--json")
        paths = {request.path for request in collector.requests}

    assert (code, err, paths) == (0, "", {"/v1/traces"})
    assert json.loads(out)["destinations"] == [f"traces: otlp_proto_http {traces}"]


@pytest.mark.usefixtures("short")
def test_without_an_endpoint_nothing_is_sent_and_the_demo_says_so(call):
    with Collector() as collector:
        code, out, err = call("demo")
        assert collector.requests == []

    assert (code, err) == (0, "")
    assert "Nothing was sent: no endpoint is set." in out


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("columns", [40, 60, 75])
def test_a_narrow_terminal_cuts_no_metric_and_no_command(call, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))

    _, out, _ = call("demo")

    told = "".join(out.split())
    for metric in (
        metric_names.ERRORS,
        metric_names.REQUEST_DURATION,
        metric_names.REQUESTS_REMAINING,
    ):
        assert metric.name in told
    for name in ALONE.errors:
        assert f"  1  {name}" in out
    assert "…" not in out
    assert f"  {terminal._command()} demo --endpoint http://localhost:4318\n" in out


def test_the_last_line_is_a_command_that_works_wherever_the_script_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    by_module = shlex.split(terminal._command())
    done = subprocess.run([*by_module, "--version"], capture_output=True, check=True, text=True)
    assert done.stdout == f"assisters-otel {__version__}\n"

    other = tmp_path / "assisters-otel"  # of another environment
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert shlex.split(terminal._command()) == by_module

    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
    assert terminal._command() == "assisters-otel"


def test_a_month_s_tokens_are_not_said_to_come_back_in_a_second(shown):
    told = shown.out.partition("429 tokens_exhausted")[2].partition("401 api_key_revoked")[0]

    assert "retry after" not in told
    assert " left" not in told
    assert "retryable no" in told


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_an_endpoint_where_nobody_listens_is_said_and_fails(call, option):
    code, out, err = call("demo", "--endpoint", "http://127.0.0.1:1", *option)

    assert (code, err) == (1, "")
    assert "does not get through to http://127.0.0.1:1" in " ".join(out.split())
    if option:
        assert json.loads(out)["sent"] is False


# -- what must not be shown as if all were well -------------------------------------------------


def test_a_scene_that_came_out_otherwise_is_said_and_fails(call, short, monkeypatch):
    wrong = short._replace(errors=("invalid_model", *short.errors[1:]))
    monkeypatch.setattr(playing, "SCENES", (wrong,))

    code, out, _ = call("demo")

    text = " ".join(out.split())
    assert code == 1
    assert "Not as it should be: short: the spans say ('tokens_exhausted'," in text
    assert "assisters.client.errors counts {'tokens_exhausted': 1," in text


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("resends", (0, 0, 0, 1), "the resend counts say (0, 0, 0, 0) in place of (0, 0, 0, 1)"),
        ("resends", (0, 0, 0, 1), "assisters.client.retries counts {} in place of {'missing_para"),
        ("outcomes", ("ok",), "the call spans say () in place of ('ok',)"),
        ("outcomes", ("ok",), "gen_ai.client.operation.duration counts {} in place of {'ok': 1}"),
        ("streams", (("error", "x"),), "the streams say () in place of (('error', 'x'),)"),
    ],
)
def test_a_resend_or_a_call_that_came_out_otherwise_fails(
    call, short, monkeypatch, field, value, said
):
    monkeypatch.setattr(playing, "SCENES", (short._replace(**{field: value}),))

    code, out, _ = call("demo")

    assert code == 1
    assert said in " ".join(out.split())


@pytest.mark.usefixtures("short")
def test_trouble_of_the_library_s_own_fails(call, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("assisters_otel.sinks.metrics.AttemptMetrics.record_attempt", broken)

    code, out, _ = call("demo", "--json")

    assert code == 1
    assert "trouble of the library's own: ZeroDivisionError: on purpose" in out


@pytest.mark.usefixtures("short")
def test_the_logger_is_as_it_was_when_the_demo_is_over(call):
    logger = logging.getLogger(names.SCOPE)
    before = (list(logger.handlers), logger.propagate)

    call("demo", "--json")

    assert (list(logger.handlers), logger.propagate) == before


# -- other people's settings --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["http", "http/dup"])
def test_the_demo_is_the_same_in_every_convention_mode(run, shown, mode):
    done = run("demo", OTEL_SEMCONV_STABILITY_OPT_IN=mode)

    assert (done.code, done.err) == (0, "")
    heads = [line for line in shown.out.splitlines() if "  POST /" in line or "  GET /" in line]
    assert len(heads) == sum(len(scene.errors) for scene in SCENES)
    for head in heads:
        assert head in done.out


@pytest.mark.usefixtures("short")
def test_a_proxy_and_a_sampler_of_the_environment_change_nothing(call, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")

    code, out, err = call("demo", "--json")

    assert (code, err) == (0, "")
    assert codes(json.loads(out)) == [list(ALONE.errors)]


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["demo", "--endpoint", "somewhere"], {}, "Write 'http://somewhere:4318'"),
        (["demo"], {"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED is true"),
        (
            ["demo", "--endpoint", "http://localhost:4318"],
            {"OTEL_TRACES_EXPORTER": "console,otlp"},
            "OTEL_TRACES_EXPORTER: 'console' would print",
        ),
        (["demo", "--colour"], {}, "No such option: --colour"),
        (["demon"], {}, "No such command 'demon'"),
    ],
)
def test_a_wrong_call_exits_with_two_and_says_what_to_write(
    call, monkeypatch, arguments, variables, said
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    code, out, err = call(*arguments)

    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())


@pytest.mark.usefixtures("again")
def test_the_readme_s_picture_is_what_the_demo_draws(call, tmp_path):
    drawn = tmp_path / "demo.svg"

    assert call("demo", "--picture", drawn).code == 0

    root = Path(__file__).parents[2]
    kept = root / "examples" / "demo.svg"
    assert f"({kept.relative_to(root)})" in (root / "README.md").read_text("utf-8")
    assert _said(drawn) == _said(kept)
    assert not set(re.findall(r"https?://[^\"\s]+", drawn.read_text("utf-8"))) - {
        "http://www.w3.org/2000/svg",
        "https://www.textualize.io",  # who drew it, in a comment
    }


def _said(picture):
    """The words of a picture, without what differs from run to run."""
    words = re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text("utf-8"))
    return re.sub(r"[0-9a-f]{32}|\d+\.\d+&#160;s", "", "\n".join(words))


@pytest.mark.usefixtures("again")
def test_a_picture_that_cannot_be_written_is_said_in_one_line(call, tmp_path):
    done = call("demo", "--picture", tmp_path)

    assert done.code == 2
    assert "--picture cannot be written" in done.err.replace("\n", " ")
