"""An error that has a type of the API's and no code is treated like a code of that type.

The API may leave out the code. Then `error.type` is all that the metrics have of it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import build
import pytest
import rule_tests
import yaml
from servers import CONFIG

from assisters_otel import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.catalog import Error

FIRES = {
    "invalid_request": {"CallerMistakes"},
    "invalid_api_key": {"KeyInvalid"},
    "rate_limit_exceeded": {"RateLimited"},
    "tokens_exhausted": {"TokensExhausted"},
    "insufficient_funds": {"InsufficientFunds"},
    "content_filtered": {"ContentFiltered"},
    "internal_error": {"InternalErrors", "InternalErrorsFast"},
}
"""A code that is typical of each type, and the alerts about half of all attempts that have it."""
ERRORS = [error for error in catalog.ERRORS if error.code in FIRES]
WAYS = ["attempt", "call", "stream"]
FIRING = 'group by (alertname, service_name) (ALERTS{alertstate="firing"})'


def service(way: str, error: Error, *, coded: bool) -> str:
    return f"{way} {error.code if coded else error.type}"


def series(way: str, error: Error, *, coded: bool) -> Iterator[str]:
    """What an app sends, half of whose requests fail in one way."""
    own = f'service_name="{service(way, error, coded=coded)}",service_instance_id="a"'
    kind = f'error_type="{error.type}"' + (f',error_code="{error.code}"' if coded else "")
    status = 200 if way == "stream" else error.status
    path = 'url_template="/v1/chat/completions"'
    attempts = "assisters_client_request_duration_seconds_count"
    calls = "assisters_client_call_attempts"
    errors = "assisters_client_errors_total"
    yield f'{errors}{{{own},{kind},{path},http_response_status_code="{status}"}}'
    yield f'{attempts}{{{own},{path},http_response_status_code="200"}}'
    if way == "stream":
        streams = "gen_ai_client_operation_time_to_first_chunk_seconds_count"
        yield f'{attempts}{{{own},{path},http_response_status_code="200",of="those that fail"}}'
        yield (f'{streams}{{{own},gen_ai_provider_name="assisters",gen_ai_operation_name="chat"}}')
    else:
        yield f'{attempts}{{{own},{path},{kind},http_response_status_code="{status}"}}'
    if way == "call":
        yield f'{calls}_count{{{own},{path},assisters_call_outcome="ok"}}'
        failed = f'{own},{path},{kind},assisters_call_outcome="failed"'
        yield f"{calls}_count{{{failed}}}"
        yield f'{calls}_bucket{{{failed},le="1.0"}}'


def expected(way: str, error: Error, *, coded: bool) -> Iterator[dict[str, Any]]:
    name = service(way, error, coded=coded)
    for alert in FIRES[error.code] | ({"StreamsFail"} if way == "stream" else set()):
        yield {"labels": f'{{alertname="Assisters{alert}", service_name="{name}"}}', "value": 1}


def test_each_type_has_a_typical_code():
    assert sorted(error.type for error in ERRORS) == sorted(row.type for row in catalog.TYPES)


@pytest.mark.parametrize("way", WAYS)
def test_a_type_without_a_code_fires_what_a_code_of_that_type_fires(way, tmp_path):
    apps = [(error, coded) for error in ERRORS for coded in (True, False)]
    test = {
        "interval": "1m",
        "input_series": [
            {"series": one, "values": "0+10x60"}
            for error, coded in apps
            for one in series(way, error, coded=coded)
        ],
        "promql_expr_test": [
            {
                "expr": FIRING.replace("}", ',alertname!="AssistersWatchdog"}'),
                "eval_time": "40m",
                "exp_samples": [
                    one for error, coded in apps for one in expected(way, error, coded=coded)
                ],
            }
        ],
    }
    head = yaml.safe_load((CONFIG / "scenarios_test.yaml").read_text())
    shutil.copy(CONFIG / rule_tests.RULES, tmp_path)
    (tmp_path / "types_test.yaml").write_text(yaml.safe_dump({**head, "tests": [test]}))

    done = rule_tests.run(build.binary("promtool"), tmp_path, "types_test.yaml")

    assert done.returncode == 0, done.stdout + done.stderr
