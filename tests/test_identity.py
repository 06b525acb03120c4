"""The fingerprint of a key, and the names that entries of the baggage may have."""

from __future__ import annotations

import importlib
import pkgutil
import shlex
import subprocess

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assisters_otel import baggage_names, config
from assisters_otel.api.identity import DIGITS, key_fingerprint
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import environment, reserved
from assisters_otel.semconv import metrics as metric_names

KEYS = [
    "ask_2f6c1e90b7d34a55",
    "sk-2f6c1e90b7d34a558",
    "asst_sk_2f6c1e90b7d3",
    "ask_" + "k/+=." * 9,
]


@pytest.mark.parametrize("key", KEYS)
def test_a_fingerprint_is_what_sha256sum_says(key):
    command = f"printf %s {shlex.quote(key)} | sha256sum | cut -c1-8"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)  # noqa: S602 - the README's

    assert key_fingerprint(f"Bearer {key}") == done.stdout.strip()
    assert key_fingerprint(key) == done.stdout.strip()


@pytest.mark.parametrize("written", ["bearer {}", "Bearer Bearer {}", "Bearer  {} ", "Token {}"])
def test_a_key_is_found_whatever_word_stands_before_it(written):
    assert key_fingerprint(written.format(KEYS[0])) == key_fingerprint(KEYS[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Bearer",
        "Bearer ask_2f6c1e90b7d34a5",  # 19 characters
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",  # an hourly token
        "Basic dXNlcjphc2tfMmY2YzFlOTBiN2QzNGE1NQ==",
        "Bearer ASK_2f6c1e90b7d34a55",
        'Bearer "ask_2f6c1e90b7d34a55"',
        "Bearer ask_2f6c1e90b7d34a55é",
        "Bearer ask_2f6c1e90b7d34a55 x",
    ],
)
def test_what_is_no_key_of_a_documented_form_has_no_fingerprint(text):
    assert key_fingerprint(text) is None


@given(st.text())
def test_no_text_raises_and_a_fingerprint_has_eight_digits(text):
    for written in (text, f"ask_{text}", f"Bearer sk-{'0' * 20}{text}"):
        found = key_fingerprint(written)
        assert found is None or (len(found) == DIGITS and int(found, 16) >= 0)


# -- the names of the baggage's entries ----------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tenant", "team", "Tenant_2", "acme.tenant", "tenant-id", "job_id"]
)
def test_a_name_of_one_s_own_is_taken(name):
    assert config.from_arguments(baggage=[name]).baggage == (name,)


@pytest.mark.parametrize("name", ["le", "quantile", "job", "instance", "otel.scope.name"])
def test_a_name_of_prometheus_is_refused(name):
    with pytest.raises(ValueError, match=r"is used by Prometheus\. Write a name of your own"):
        config.from_arguments(baggage=["tenant", name])


def our_names():
    tables = (names.ATTEMPT_ATTRIBUTES, names.CALL_ATTRIBUTES, names.STREAM_ATTRIBUTES)
    yield from (row.name for table in tables for row in table)
    yield from (label for metric in metric_names.METRICS for label in metric.attributes)
    yield from (names.TRACE_ID, names.SPAN_ID)


@pytest.mark.parametrize("name", sorted(set(our_names())))
def test_a_name_of_the_library_s_is_refused_also_as_prometheus_spells_it(name):
    for written in (name, name.replace(".", "_"), name.replace("_", ".")):
        with pytest.raises(ValueError, match="is used by"):
            config.from_arguments(baggage=[written])


def conventions():
    """Every attribute of the installed semantic conventions."""
    for package in (incubating, stable):
        for module in pkgutil.iter_modules(package.__path__):
            found = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            yield from (v for k, v in found.items() if k.isupper() and isinstance(v, str))


def test_no_namespace_of_the_conventions_is_missing():
    found = {name for name in conventions() if "." in name}

    assert len(found) > 800
    assert {name.partition(".")[0] for name in found} - reserved.NAMESPACES == set()


@pytest.mark.parametrize("name", ["http.route", "service.name", "user.id", "assisters.tenant"])
def test_a_name_in_a_namespace_of_the_conventions_is_refused(name):
    with pytest.raises(ValueError, match=f"the name '{name}' is used by "):
        config.from_arguments(baggage=[name])


@pytest.mark.parametrize(
    ("names_", "says"),
    [
        ("tenant", "Write baggage=\\('tenant',\\), with a comma"),
        (b"tenant", "with a comma"),
        ({"tenant": 1}, "with a comma"),
        (7, "with a comma"),
        ([7], "baggage holds text, not int"),
        ([""], "not a name of a baggage entry"),
        (["a b"], "not a name of a baggage entry"),
        (["2nd"], "not a name of a baggage entry"),
        (["n" * 64], "not a name of a baggage entry"),
        (["tenant.id", "tenant_id"], "used by another entry, as Prometheus spells both"),
        (["ask_live_0123456789"], "not a name of a baggage entry: 'REDACTED'"),
    ],
)
def test_a_wrong_name_is_a_value_error_that_says_what_to_write(names_, says):
    with pytest.raises(ValueError, match=says):
        config.from_arguments(baggage=names_)


def test_a_name_that_is_given_twice_is_one():
    assert config.from_arguments(baggage=["tenant", "team", "tenant"]).baggage == ("tenant", "team")


def test_a_wrong_name_in_the_variable_costs_that_name_and_is_one_message():
    told = {environment.ASSISTERS_OTEL_BAGGAGE: "tenant, le,,a b , team,tenant"}
    found, message = baggage_names.environment_names(told)

    assert found == ("tenant", "team")
    assert message == (
        "ASSISTERS_OTEL_BAGGAGE: the name 'le' is used by Prometheus. Write a name of your own, "
        "'tenant'; not a name of a baggage entry: 'a b'. Write a name of your own, 'tenant', of "
        "letters, digits, '_', '-' and '.', one to an entry; used are 'tenant', 'team'"
    )


def test_a_right_variable_is_no_message():
    assert baggage_names.environment_names({environment.ASSISTERS_OTEL_BAGGAGE: "a,b"}) == (
        ("a", "b"),
        None,
    )
    assert baggage_names.environment_names({}) == ((), None)


@pytest.mark.parametrize(("text", "on"), [("", True), ("true", True), ("0", False), ("Off", False)])
def test_the_fingerprint_is_on_unless_the_variable_says_no(text, on):
    told = {environment.ASSISTERS_OTEL_KEY_FINGERPRINT: text}

    assert config.environment_key_fingerprint(told) is on


def test_a_variable_that_is_neither_true_nor_false_records_no_fingerprint():
    """Only who wants none sets it."""
    told = {environment.ASSISTERS_OTEL_KEY_FINGERPRINT: "flase"}
    found, wrong = config.read_environment(config.from_arguments(), told)

    assert not found.key_fingerprint
    (message,) = wrong
    assert message == (
        "ASSISTERS_OTEL_KEY_FINGERPRINT: neither true nor false: 'flase'. Write true or false. "
        "No fingerprint is recorded"
    )


def test_an_argument_wins_over_its_variable():
    told = {
        environment.ASSISTERS_OTEL_KEY_FINGERPRINT: "nonsense",
        environment.ASSISTERS_OTEL_BAGGAGE: "le",
    }
    given_ = config.from_arguments(key_fingerprint=True, baggage=("team",))
    found, wrong = config.read_environment(given_, told)

    assert (found.key_fingerprint, found.baggage, wrong) == (True, ("team",), ())
    nothing = config.from_arguments(key_fingerprint=False, baggage=())
    told = {environment.ASSISTERS_OTEL_BAGGAGE: "tenant"}
    found, wrong = config.read_environment(nothing, told)
    assert (found.key_fingerprint, found.baggage, wrong) == (False, (), ())


@pytest.mark.parametrize("wrong", ["no", 1, 0.0])
def test_a_switch_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="key_fingerprint is a switch"):
        config.from_arguments(key_fingerprint=wrong)
