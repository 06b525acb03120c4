"""fingerprint: what sha256sum says, from a prompt that shows nothing or from standard input."""

from __future__ import annotations

import hashlib
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


def piped(text, *arguments, **variables):
    return subprocess.run(
        [COMMAND, *arguments],
        input=text,
        capture_output=True,
        env={**os.environ, **variables},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_key_from_standard_input_is_as_sha256sum_has_it(end):
    done = piped(KEY.encode() + end, "fingerprint")

    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"{DIGITS}\n", b"")


@pytest.mark.parametrize("arguments", [("fingerprint", "--json"), ("--json", "fingerprint")])
def test_as_json_it_has_the_attribute_s_name(arguments):
    done = piped(KEY.encode(), *arguments)

    assert json.loads(done.stdout) == {
        "fingerprint": DIGITS,
        "attribute": "assisters.api_key.fingerprint",
    }


def test_a_key_that_is_an_argument_is_refused_and_not_shown():
    for key in (KEY, f"--{KEY}"):
        done = piped(b"", "fingerprint", key)

        said = " ".join(done.stderr.decode().replace("│", " ").split())
        assert (done.returncode, done.stdout) == (2, b"")
        assert "a key is no argument" in said
        assert "9876" not in said


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"secret-9876543210-secret", b"ask_9876543210", b"\xff" * 30]
)
def test_what_is_no_key_is_refused_and_not_shown(text):
    done = piped(text, "fingerprint")

    said = " ".join(done.stderr.decode().replace("│", " ").split())
    assert (done.returncode, done.stdout) == (2, b"")
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
