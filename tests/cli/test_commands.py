"""errors, explain, fake-api: as a person and as a machine calls them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from assisters_otel import catalog

COMMAND = Path(sys.executable).with_name("assisters-otel")
CODES = [error.code for error in catalog.ERRORS]


def test_errors_lists_the_whole_catalog(call):
    code, out, err = call("errors")

    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if "_" in line[:20]}
    for error in catalog.ERRORS:
        assert rows[error.code][1] == str(error.status)
        assert (rows[error.code][2] == "helps") is error.retryable
    assert "\x1b" not in out


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_errors_loses_nothing_in_a_narrow_terminal(call, columns):
    out = call("errors", COLUMNS=str(columns)).out

    assert max(map(len, out.splitlines())) <= columns
    heads = [line for line in out.splitlines() if line.startswith(tuple(CODES))]
    assert [line.split()[0] for line in heads] == CODES
    for error, head in zip(catalog.ERRORS, heads, strict=True):
        assert ("  helps" if error.retryable else "  no use") in head
        assert f"  {error.status}  " in head
    if columns < 75:  # in a table the columns stand side by side
        told = " ".join(out.split())
        assert not [error.code for error in catalog.ERRORS if error.advice not in told]


@pytest.mark.parametrize("columns", [20, 40])
def test_explain_cuts_no_word(call, columns):
    out = call("explain", "invalid_api_key", COLUMNS=str(columns)).out

    assert "…" not in out
    assert "Authorization" in "".join(out.split())


def test_errors_as_json_is_the_catalog(call):
    done = call("errors", "--json")

    assert json.loads(done.out) == [error._asdict() for error in catalog.ERRORS]


def test_explain_says_what_to_do(call):
    done = call("explain", "tokens_exhausted")

    told = " ".join(done.out.split())
    assert done.code == 0
    assert "429 tokens_exhausted_error no retry helps" in told
    assert catalog.find("tokens_exhausted").advice in told
    assert catalog.find("tokens_exhausted").user_message in told


def test_explain_as_json_has_every_field(call):
    told = json.loads(call("explain", "model_overloaded", "--json").out)

    assert told["retryable"] is True
    assert told["side"] == "the API"


@pytest.mark.parametrize(
    ("code", "hint"), [("rate_limit_exceded", "Did you mean rate_limit_exceeded?"),
                       ("nonsense", "Write one of invalid_api_key")]
)  # fmt: skip
def test_explain_of_an_unknown_code_says_what_to_write(call, code, hint):
    done = call("explain", code)

    assert (done.code, done.out) == (2, "")
    assert hint in " ".join(done.err.replace("│", " ").split())


def test_the_fake_api_plays_its_script_until_it_is_interrupted(tmp_path):
    script = tmp_path / "script.json"
    script.write_text('[{"codes": ["rate_limit_exceeded", "ok"], "retry_after": 2}]')
    server = subprocess.Popen(
        [COMMAND, "fake-api", "--script", script, "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        url = json.loads(server.stdout.readline())["url"]
        first, second = (httpx.get(f"{url}/models") for _ in range(2))
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(10)
        server.stdout.close()

    assert (first.status_code, second.status_code) == (429, 200)
    assert first.headers["retry-after"] == "2"
    assert code == 0


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("{", "is no JSON"),
        ('{"codes": []}', "write a list of objects"),
        (
            '[{"codes": ["ok"]}, {"codes": ["odd"]}]',
            'answer 2: "odd" is not documented: write "status": 400, "code": "odd"',
        ),
        ('[{"codes": ["overload"]}]', 'did you mean "model_overloaded"? Else write "status": 400'),
        ('[{"codes": ["drop"]}]', 'write "fault": "drop"'),
        ('[{"codes": [429]}]', 'a code is text, not 429: write "status": 429'),
        ('[{"codes": [true]}]', 'not true: write "codes": ["internal_error", "ok"]'),
        ('[{"codes": ["ok"], "code": "ok"}]', 'write a list of codes or one as "code", not both'),
        ('[{"colour": "red"}]', 'no answer has "colour". Write some of body'),
        ('[{"codes": "ok"}]', 'codes is a list. Write "codes": ["ok"]'),
        ('[{"code": "odd"}]', '"code": "odd" is not documented: add "status"'),
        ('[{"code": "internal_error", "status": 200}]', '"code": "internal_error" is an error'),
        ('[{"message": 5}]', 'message is text, not 5: write "message": "…"'),
        ('[{"message": "x"}]', '"type", "message" and "param" need a code'),
        ('[{"status": 400, "message": "x", "body": ""}]', '"type", "message" and "param" make'),
        ('[{"body": "x", "json": 1}]', 'write "body" or "json", not both'),
        ('[{"body": ["x"]}]', 'body is text, not ["x"]: write "body": "…"'),
        ('[{"delay_s": "soon"}]', 'delay_s is a number, not "soon": write "delay_s": 2'),
        ('[{"delay_s": NaN}]', 'write "delay_s": 2, or "fault": "silence" for no answer'),
        ('[{"chunk_delay_s": -1}]', 'or "fault": "stall" for no more of it'),
        ('[{"retry_after": true}]', 'retry_after is a number, not true: write "retry_after": 2'),
        ('[{"retry_after": -1}]', 'or text for any other: "retry_after": "soon"'),
        ('[{"size": true}]', 'size is a number, not true: write "size": 2'),
        ('[{"times": 0}]', '"times": 0 is none: write "times": 1 or more'),
        ('[{"status": 99}]', 'write "status": a number from 200 to 599'),
        ('[{"gzip": null}]', 'gzip is a switch, not null: write "gzip": true'),
        ('[{"headers": {"a b": "it\'s"}}]', 'no header can be sent as "a b": "it\'s"'),
        ('[{"headers": [1]}]', 'not [1]: write {"x-odd": "1"}'),
        ('[{"headers": {"Content-Length": 1}}]', 'write "fault": "truncate", "chunked": true or'),
        ('[{"fault": "fire"}]', "write one of the faults drop, stall"),
        ('[{"in_stream": "ok", "body": "x"}]', '"in_stream" fails after a success'),
    ],
)
def test_a_wrong_script_says_what_to_write_as_json(call, assisters_api, tmp_path, script, says):
    path = tmp_path / "script.json"
    path.write_text(script)

    # On a port that is taken, so that it could not serve for ever either.
    done = call("fake-api", "--script", path, "--port", str(assisters_api.port))

    assert done.code == 2
    told = " ".join(done.err.replace("│", " ").split())
    assert says in told
    assert not re.search(r"\b[a-z_]+=|\b(True|False|None)\b", told)


def test_a_port_that_is_taken_is_said(run, assisters_api):
    done = run("fake-api", "--port", str(assisters_api.port))

    assert done.code == 2
    assert "cannot be used" in " ".join(done.err.replace("│", " ").split())


def test_the_fake_api_says_how_to_use_it():
    server = subprocess.Popen([COMMAND, "fake-api"], stdout=subprocess.PIPE, text=True)
    try:
        greeting = [server.stdout.readline(), server.stdout.readline()]
    finally:
        server.terminate()
        assert server.wait(10) == 0
        server.stdout.close()

    assert "export ASSISTERS_BASE_URL=http://127.0.0.1:" in greeting[1]
