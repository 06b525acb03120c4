"""The command `check-retries`."""

from __future__ import annotations

import json
import os

import pytest

import warm

APP = """
import os
import httpx

def ask(api):
    with httpx.Client(base_url=api.url, trust_env=False, timeout=4) as client:
        client.post("/moderate", json={"input": "hello"}).raise_for_status()

def ask_nobody(api):
    pass

def ask_for_ever(api):
    ask(api)
    import time
    time.sleep(3)

async def ask_async(api):
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=4) as client:
        (await client.post("/moderate", json={"input": "hello"})).raise_for_status()

class Client:
    @staticmethod
    def ask(api):
        ask(api)

def fails(api):
    raise KeyError("Bearer ask_0123456789abcdef0123")

nothing = None
"""
RULES = ("rate_limited", "overloaded", "internal_error")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_app.py").write_text(APP, "utf-8")
    (tmp_path / "broken_app.py").write_text("import not_installed_anywhere\n", "utf-8")
    return tmp_path


def run(folder, *arguments, before=""):
    code = before + "from assisters_otel.cli import main; main()"
    env = {**os.environ, "COLUMNS": "200"}
    return warm.run("-c", code, *arguments, env=env, cwd=folder, timeout_s=120)


def check(folder, *arguments, **options):
    return run(folder, "check-retries", *arguments, **options)


def left_out(*names):
    return [word for name in names for word in ("--leave-out", name)]


def test_a_policy_without_retries_is_an_error_and_the_exit_says_so(folder):
    done = check(folder, "my_app:ask")

    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("Retry policy: 3 errors, 0 remarks (41 calls in ")
    for name in RULES:
        assert f"error  {name}\n" in done.stdout
    assert "seen      1 attempt, raised HTTPStatusError" in done.stdout
    assert "kept: retry_after, hopeless, outage, surfaced, layers, idempotency" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["ask_async", "Client.ask"])
def test_what_is_left_out_is_no_error(folder, name):
    done = check(folder, f"my_app:{name}", *left_out(*RULES, "own_timeout"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors" in done.stdout
    assert "left out: rate_limited, overloaded, internal_error, own_timeout" in done.stdout


def test_json_is_one_document(folder):
    done = check(folder, "my_app:ask", "--json", *left_out("own_timeout"))
    before = run(folder, "--json", "check-retries", "my_app:ask", *left_out("own_timeout"))

    assert (done.returncode, before.returncode) == (1, 1)
    for told in (json.loads(done.stdout), json.loads(before.stdout)):
        assert told["ok"] is False
        broken = [row["rule"] for row in told["rows"] if row["outcome"] == "broken"]
        assert broken == list(RULES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["my_app"], "write MODULE:FUNCTION"),
        (["my_app:nothing"], "my_app:nothing: my_app has no function nothing"),
        (["my_app:else"], "my_app:else: my_app has no function else"),
        (["no_app:ask"], "no_app:ask: no_app cannot be imported: ModuleNotFoundError"),
        (["broken_app:ask"], "No module named 'not_installed_anywhere'"),
        (["my_app:fails"], "my_app:fails fails before it has sent anything to api.url, with"),
        (["my_app:ask_nobody"], "my_app:ask_nobody has sent nothing to api.url"),
        (
            ["my_app:ask_for_ever", "--limit-s", "1"],
            "my_app:ask_for_ever does not end where all is well: give it less to do, or a longer",
        ),
        (["my_app:ask", "--leave-out", "jiter"], "did you mean 'jitter'"),
        (["my_app:ask", "--limit-s", "0"], "write --limit-s 60"),
    ],
)
def test_a_wrong_call_is_told_what_to_write(folder, arguments, says):
    done = check(folder, *arguments)

    assert done.returncode == 2, done.stdout
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "ask_0123456789" not in done.stderr


def test_without_the_web_server_it_says_what_to_install(folder):
    done = check(
        folder,
        "my_app:ask",
        before="import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None; ",
    )

    assert done.returncode == 2
    assert "pip install 'assisters-otel[testing]'" in done.stderr
