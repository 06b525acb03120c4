"""`OTEL_CONFIG_FILE` describes the providers: for `init`, and under opentelemetry-instrument."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from otlp import Collector
from scripts import passed

DURATION = "assisters.client.request.duration"
SECRET = "value-of-the-file-4711"

EXPORTER = "exporter: {{otlp_http: {{endpoint: {endpoint}/v1/{signal}}}}}"
RESOURCE = "resource: {attributes: [{name: service.name, value: of-file}]}\n"
HEAD = f"file_format: '1.0'\n{RESOURCE}"

SCRIPT = """
import logging, sys
sys.path.insert(0, BESIDE)
import httpx
import assisters_otel
from opentelemetry import metrics, trace

how = "%(levelname)s %(name)s %(message)s"
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=how)
logging.getLogger("httpx").setLevel(logging.WARNING)
def call():
    print(httpx.post(URL + "/chat/completions", json={"model": "m"}, trust_env=False).status_code)
"""
INIT = """
with assisters_otel.init(hosts=[URL]) as telemetry:
    call()
    telemetry.flush(5)
"""


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


def traces(collector, more=""):
    exporter = EXPORTER.format(endpoint=collector.endpoint, signal="traces")
    return f"tracer_provider: {{{more}processors: [{{batch: {{{exporter}}}}}]}}\n"


def measured(collector):
    exporter = EXPORTER.format(endpoint=collector.endpoint, signal="metrics")
    return f"meter_provider: {{readers: [{{periodic: {{interval: 60000, {exporter}}}}}]}}\n"


@pytest.fixture
def play(api, tmp_path):
    """Play a script beside a configuration file; give what it printed, line by line."""

    def play(file, body=INIT, *, name="otel.yaml", **options):
        path = tmp_path / name
        if file is not None:
            path.write_text(file) if isinstance(file, str) else path.write_bytes(file)
        settings = f"URL = {api.url!r}\nBESIDE = {str(Path(__file__).parent)!r}\n"
        script = f"{settings}{SCRIPT}{textwrap.dedent(body)}"
        return passed(script, OTEL_CONFIG_FILE=str(path), **options).out.splitlines()

    return play


def warnings(lines):
    return [line for line in lines if line.startswith(("WARNING", "ERROR", "CRITICAL"))]


def services(collector):
    """The names of the services that spans, and that metrics, arrived from."""
    return (
        {span.resource["service.name"] for span in collector.spans()},
        {point.resource["service.name"] for point in collector.points(DURATION)},
    )


def test_init_records_in_the_providers_that_the_file_describes(play, collector):
    told = play(HEAD + traces(collector) + measured(collector))

    assert services(collector) == ({"of-file"}, {"of-file"})
    assert not warnings(told)


def test_the_file_s_sampler_and_propagator_are_those_that_hold(play, api, collector):
    api.answers("invalid_model", times=2)
    off = traces(collector, "sampler: {always_off: }, ")

    play(HEAD + off + measured(collector))
    play(HEAD + traces(collector) + "propagator: {composite: [{tracecontext: }]}\n")

    assert len(collector.spans()) == 1
    assert ["traceparent" in request.headers for request in api.requests] == [False, True]


def test_zero_code_records_in_them(play, collector):
    by = str(Path(sys.executable).with_name("opentelemetry-instrument"))

    told = play(
        HEAD + traces(collector) + measured(collector),
        "call()\n",
        by=(by,),
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="httpx,openai",
        ASSISTERS_OTEL_HOSTS="127.0.0.1",
    )

    assert services(collector) == ({"of-file"}, {"of-file"})
    assert not warnings(told)


def test_init_under_zero_code_reads_the_file_no_second_time(play, collector):
    by = str(Path(sys.executable).with_name("opentelemetry-instrument"))

    told = play(
        HEAD + traces(collector) + measured(collector),
        """
        before = trace.get_tracer_provider(), metrics.get_meter_provider()
        with assisters_otel.init("mine", hosts=[URL]):
            call()
        assert before == (trace.get_tracer_provider(), metrics.get_meter_provider())
        """,
        by=(by,),
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai",  # to import those takes most of the time
    )

    assert services(collector) == ({"of-file"}, {"of-file"})
    assert len(collector.spans()) == 1
    (line,) = warnings(told)
    assert "OTEL_CONFIG_FILE is set: service_name, given to init, is not used" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("'shop'", "service_name"),
        ("endpoint=ELSEWHERE", "endpoint"),
        ("headers={'a': 'b'}", "headers"),
        ("protocol='http/protobuf'", "protocol"),
        ("'shop', endpoint=ELSEWHERE", "service_name and endpoint"),
    ],
)
def test_an_argument_for_a_provider_is_one_warning_and_not_used(play, collector, arguments, named):
    with Collector() as elsewhere:
        body = INIT.replace("hosts=[URL]", f"{arguments}, hosts=[URL]")
        told = play(
            HEAD + traces(collector) + measured(collector),
            f"ELSEWHERE = {elsewhere.endpoint!r}\n{body}",
        )

    assert services(collector) == ({"of-file"}, {"of-file"})
    assert services(elsewhere) == (set(), set())
    (line,) = warnings(told)
    assert f"OTEL_CONFIG_FILE is set: {named}, given to init, " in line


def test_a_provider_that_is_given_wins_and_the_file_has_the_other_signal(play, collector):
    told = play(
        HEAD + traces(collector) + measured(collector),
        """
        from memory import Memory
        memory = Memory()
        with assisters_otel.init(hosts=[URL], tracer_provider=memory.tracer_provider) as telemetry:
            call()
        assert len(memory.spans()) == 1
        print(type(trace.get_tracer_provider()).__name__)
        """,
    )

    assert "ProxyTracerProvider" in told
    assert services(collector) == (set(), {"of-file"})
    assert not warnings(told)


def test_where_both_are_given_the_file_is_not_read(play):
    told = play(
        "no configuration",
        """
        from memory import Memory
        memory = Memory()
        given = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
        with assisters_otel.init(hosts=[URL], **given):
            call()
        assert len(memory.spans()) == 1
        """,
    )

    assert not warnings(told)


def test_what_the_app_has_set_before_stays(play, collector):
    told = play(
        HEAD + traces(collector) + measured(collector),
        """
        from memory import Memory
        memory = Memory()
        trace.set_tracer_provider(memory.tracer_provider)
        with assisters_otel.init(hosts=[URL]):
            call()
        assert len(memory.spans()) == 1
        """,
    )

    assert services(collector) == (set(), {"of-file"})
    assert not warnings(told)


def test_what_the_file_does_not_describe_is_not_sent(play, collector):
    told = play(HEAD + traces(collector), OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert services(collector) == ({"of-file"}, set())
    assert not warnings(told)
    assert "describes no meter_provider: nothing is sent for it" in str(told)


def test_a_misspelt_part_is_one_warning(play, collector):
    told = play(f"{HEAD}tracer_provder: {SECRET}\n{measured(collector)}")

    (line,) = warnings(told)
    assert "describes no tracer_provider, and has what nothing reads: 'tracer_provder'" in line
    assert SECRET not in str(told)


def test_they_are_the_app_s_and_go_on_after_shutdown(play, collector):
    told = play(
        HEAD + traces(collector) + measured(collector),
        f"{INIT}{INIT}\nwith trace.get_tracer('mine').start_as_current_span('own'): pass\n",
    )

    assert max(span.name for span in collector.spans()) == "own"
    assert len(collector.spans()) == 3
    assert not warnings(told)
    assert str(told).count("has set the global") == 0


def test_a_file_that_is_disabled_switches_the_library_off(play, collector):
    told = play(
        HEAD + "disabled: true\n" + traces(collector) + measured(collector),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert services(collector) == (set(), set())
    assert "the file in OTEL_CONFIG_FILE is disabled: nothing is watched" in str(told)
    assert not warnings(told)


def test_hosts_and_messages_that_the_file_asks_for_are_watched(play, api, collector):
    api.answers("invalid_model", message="no such model")
    section = f"{{hosts: ['{api.url}'], capture_message: true}}"
    file = HEAD + traces(collector) + measured(collector)
    file += f"instrumentation/development: {{python: {{assisters: {section}}}}}\n"

    told = play(file, INIT.replace("hosts=[URL]", ""))

    (span,) = collector.spans()
    assert span.attributes["error.code"] == "invalid_model"
    assert span.attributes["assisters.error.message"] == "no such model"
    assert not [line for line in warnings(told) if "invalid_model" not in line]


def test_without_the_extra_one_warning_names_it_and_the_variables_hold(play, collector):
    told = play(
        HEAD + traces(collector),
        f"sys.modules['opentelemetry.configuration'] = None\n{INIT}",
        OTEL_SERVICE_NAME="of-variables",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert services(collector) == ({"of-variables"}, {"of-variables"})
    (line,) = warnings(told)
    assert "OTEL_CONFIG_FILE='" in line
    assert "pip install 'assisters-otel[config]'" in line


BROKEN = {
    "not there": (None, "not found"),
    "empty": ("", "empty"),
    "no mapping": ("- 1\n", "mapping"),
    "no YAML": (f"file_format: '1.0'\n  : {SECRET}: [\n", "line 2: "),
    "no text": (b"\xff\xfe\x00" * 9, "UnicodeDecodeError"),
    "no version": ("disabled: false\n", "'file_format' is a required property"),
    "another version": ("file_format: '7.0'\n", "Unsupported file_format"),
    "a misspelt name": (
        f"{HEAD}tracer_provider: {{procesors: {SECRET}}}\n",
        "tracer_provider: Additional properties are not allowed ('procesors' was unexpected)",
    ),
    "a value in its place": (
        f"{HEAD}tracer_provider: {{processors: {SECRET}}}\n",
        "tracer_provider.processors: the value is not of type 'array'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_warning_that_quotes_no_value(play, collector, kind):
    file, why = BROKEN[kind]

    told = play(
        file,
        OTEL_SERVICE_NAME="of-variables",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert services(collector) == ({"of-variables"}, {"of-variables"})
    (line,) = warnings(told)
    assert why in line
    assert "OTEL_CONFIG_FILE=" in line
    assert "variables and the arguments of init are taken instead" in line
    assert SECRET not in str(told)


EXPORTED = "http://127.0.0.1:9/v1/traces"
TO_TRACES = "tracer_provider: {{processors: [{{batch: {{exporter: {}}}}}]}}\n"
WITH_VALUE = {
    "compression": TO_TRACES.format(
        f"{{otlp_http: {{endpoint: '{EXPORTED}', compression: {SECRET}}}}}"
    ),
    "headers_list": TO_TRACES.format(
        f"{{otlp_http: {{endpoint: '{EXPORTED}', headers_list: {SECRET}}}}}"
    ),
    "composite_list": f"propagator: {{composite_list: '{SECRET},b3multi'}}\n",
    "attribute": f"resource: {{attributes: [{{name: a, value: {SECRET}, type: int}}]}}\n",
    "attributes_list": f"resource: {{attributes_list: {SECRET}}}\n",
    "tag": f"propagator: !{SECRET} a\n",
    "alias": f"propagator: *{SECRET}\n",
    "file_format": f"file_format: {SECRET}\n",
}


@pytest.mark.parametrize("place", WITH_VALUE)
def test_no_line_quotes_a_value_wherever_it_stands_in_the_file(play, place):
    head = "" if place == "file_format" else "file_format: '1.0'\n"

    told = play(
        f"{head}{WITH_VALUE[place]}",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert any(place.split("_")[0] in line or "cannot be used" in line for line in warnings(told))
    assert SECRET not in str(told)


def test_a_name_that_is_not_known_is_named(play):
    told = play(
        f"{HEAD}{TO_TRACES.format('{nowhere: }')}",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    (line,) = warnings(told)
    assert "Plugin 'nowhere' not found" in line


def test_a_name_that_is_no_configuration_s_is_one_warning(play):
    told = play(HEAD, name="otel.txt", OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")

    (line,) = warnings(told)
    assert "Unsupported file format: .txt" in line


@pytest.mark.parametrize("broken", ["tracer_provider", "meter_provider"])
def test_a_part_that_cannot_be_used_does_not_cost_the_other(play, collector, broken):
    wrong = {
        "tracer_provider": "tracer_provider: {processors: [{batch: {exporter: {nowhere: }}}]}\n",
        "meter_provider": "meter_provider: {readers: [{periodic: {exporter: {nowhere: }}}]}\n",
    }
    good = {"tracer_provider": traces(collector), "meter_provider": measured(collector)}

    told = play(
        HEAD + "".join(({**good, broken: wrong[broken]}).values()),
        OTEL_SERVICE_NAME="of-variables",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    found = ({"of-variables"}, {"of-file"})
    assert services(collector) == (found if broken == "tracer_provider" else found[::-1])
    (line,) = warnings(told)
    assert f"{broken} cannot be used" in line


@pytest.mark.parametrize(
    "part",
    [
        "propagator: {composite_list: nowhere}\n",
        "logger_provider: {processors: [{batch: {exporter: {nowhere: }}}]}\n",
    ],
)
def test_what_else_cannot_be_used_costs_itself_alone(play, api, collector, part):
    told = play(HEAD + traces(collector) + measured(collector) + part)

    assert services(collector) == ({"of-file"}, {"of-file"})
    (line,) = warnings(told)
    assert f"{part.partition(':')[0]} cannot be used" in line
    if part.startswith("propagator"):
        assert "traceparent" in api.requests[0].headers


def test_a_wrong_logger_provider_in_the_variables_costs_no_other_signal(play, collector):
    told = play(
        HEAD + traces(collector) + measured(collector),
        OTEL_PYTHON_LOGGER_PROVIDER="nowhere",
    )

    assert services(collector) == ({"of-file"}, {"of-file"})
    assert not warnings(told)


def test_with_strict_a_broken_file_is_a_value_error(play):
    told = play(
        "no configuration",
        """
        try:
            assisters_otel.init(hosts=[URL], strict=True)
        except ValueError as error:
            print(error)
        """,
    )

    assert "OTEL_CONFIG_FILE=" in told[-1]


@pytest.mark.parametrize("by", ["python", "opentelemetry-instrument"])
def test_the_example_describes_both(api, by):
    root = Path(__file__).parents[1]
    script = {"python": "quickstart", "opentelemetry-instrument": "zero_code"}[by]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with Collector() as collector:
        done = subprocess.run(
            [
                *([] if by == "python" else [Path(sys.executable).with_name(by)]),
                sys.executable,
                root / "examples" / f"{script}.py",
            ],
            env={
                **inherited,
                "OTEL_CONFIG_FILE": str(root / "examples" / "otel-config.yaml"),
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "" if by == "python" else "httpx,openai",
                "ASSISTERS_BASE_URL": api.url,
                "ASSISTERS_API_KEY": "ask_test_1234567890",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert services(collector) == ({"checkout"}, {"checkout"})
    (span,) = collector.spans()
    assert span.resource["service.instance.id"]
    assert ("service_name, given to init, is not used" in done.stderr) == (by == "python")


def test_each_detector_of_the_file_is_asked_once(api, collector, tmp_path):
    """One that asks a cloud for its metadata takes seconds."""
    found = tmp_path / "counting-1.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (found / "entry_points.txt").write_text(
        "[opentelemetry_resource_detector]\ncounting = counting:Detector\n"
    )
    (tmp_path / "counting.py").write_text(
        "from opentelemetry.sdk.resources import Resource\n"
        "class Detector:\n"
        "    def detect(self):\n"
        "        print('asked')\n"
        "        return Resource({'cloud.zones': ('a', 'b'), 'cloud.cores': 2})\n"
    )
    file = tmp_path / "otel.yaml"
    file.write_text(
        "file_format: '1.0'\n"
        "resource: {detection/development: {detectors: [{counting: }, {service: }]}}\n"
        f"{traces(collector)}{measured(collector)}"
    )
    settings = f"URL = {api.url!r}\nBESIDE = {str(tmp_path)!r}\n"

    done = passed(f"{settings}{SCRIPT}{INIT}", is_first=True, OTEL_CONFIG_FILE=str(file))

    assert done.out.splitlines().count("asked") == 1
    (span,) = collector.spans()
    (point,) = collector.points(DURATION)
    assert span.resource == point.resource
    assert (span.resource["cloud.zones"], span.resource["cloud.cores"]) == (["a", "b"], 2)
    assert span.resource["service.instance.id"]
    assert not warnings(done.out.splitlines())


def test_a_detector_that_is_not_there_is_one_warning(play, collector):
    told = play(
        "file_format: '1.0'\n"
        "resource: {detection/development: {detectors: [{nowhere: }]}}\n"
        f"{traces(collector)}{measured(collector)}",
        OTEL_SERVICE_NAME="of-variables",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert services(collector) == ({"of-variables"}, {"of-variables"})
    (line,) = warnings(told)
    assert "resource cannot be used" in line
