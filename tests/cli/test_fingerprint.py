"""fingerprint: what sha256sum says, from a prompt that shows nothing or from standard input."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("assisters-otel")
KEY = "ask_live_9876543210xyz"
DIGITS = hashlib.sha256(KEY.encode()).hexdigest()[:8]


@pytest.fixture
def piped(call, monkeypatch):
    """Run the command with something on its standard input."""

    def piped(text, *arguments):
        with io.TextIOWrapper(io.BytesIO(text)) as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            return call(*arguments)

    return piped


def test_a_key_from_a_pipe_is_as_sha256sum_has_it():
    done = subprocess.run(
        [COMMAND, "fingerprint"],
        input=KEY.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"{DIGITS}\n", b"")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_key_from_standard_input_is_as_sha256sum_has_it(piped, end):
    assert piped(KEY.encode() + end, "fingerprint") == (0, f"{DIGITS}\n", "")


@pytest.mark.parametrize("arguments", [("fingerprint", "--json"), ("--json", "fingerprint")])
def test_as_json_it_has_the_attribute_s_name(piped, arguments):
    done = piped(KEY.encode(), *arguments)

    assert json.loads(done.out) == {
        "fingerprint": DIGITS,
        "attribute": "assisters.api_key.fingerprint",
    }


def test_a_key_that_is_an_argument_is_refused_and_not_shown(piped):
    for key in (KEY, f"--{KEY}"):
        done = piped(b"", "fingerprint", key)

        said = " ".join(done.err.replace("│", " ").split())
        assert (done.code, done.out) == (2, "")
        assert "a key is no argument" in said
        assert "9876" not in said


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"secret-9876543210-secret", b"ask_9876543210", b"\xff" * 30]
)
def test_what_is_no_key_is_refused_and_not_shown(piped, text):
    done = piped(text, "fingerprint")

    said = " ".join(done.err.replace("│", " ").split())
    assert (done.code, done.out) == (2, "")
    assert "begins with ask_, sk- or asst_sk_ and has 20 characters or more" in said
    assert "9876" not in said


def test_a_key_that_is_typed_is_not_shown():
    pty = pytest.importorskip("pty", reason="Windows has none")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "fingerprint"], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    until = time.monotonic() + 60
    while b"API key" not in shown and time.monotonic() < until:
        shown += os.read(ours, 1000)
    time.sleep(0.2)  # it switches the echo off after it has asked
    os.write(ours, f"{KEY}\n".encode())
    out, _ = process.communicate(timeout=60)
    shown += os.read(ours, 1000)
    os.close(ours)

    assert (process.returncode, out.decode().strip()) == (0, DIGITS)
    assert b"9876" not in shown
