"""How far a request goes through the house: the files, classes and crossings that a reader follows.

A function that `fail_safe` decorates counts as called by its caller: who reads a call opens the
file of that function, and the decorator's once. The bounds may only shrink.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import openai
import pytest

import assisters_otel

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

HOME = f"{Path(assisters_otel.__file__).parent}/"
DECORATOR = f"{HOME}fail_safe.py"


class Distance(NamedTuple):
    """What one request touches.

    Attributes:
        files: How many files.
        classes: How many classes have a method that runs.
        crossings: How many calls go from one file to another.
    """

    files: int
    classes: int
    crossings: int


def distance_of(request: Callable[[], object]) -> Distance:
    """Walk a request that has been made before: what is imported at first is no part of it."""
    files, classes, crossings = set(), set(), 0

    def walk(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal crossings
        file = frame.f_code.co_filename
        is_ours = file.startswith(HOME) and file != DECORATOR and "/testing/" not in file
        if event != "call" or not is_ours:
            return
        caller = frame.f_back
        while caller is not None and caller.f_code.co_filename == DECORATOR:
            caller = caller.f_back
        files.add(file)
        of, _, method = frame.f_code.co_qualname.rpartition(".")
        if method and of.rpartition(".")[2].lstrip("_")[:1].isupper():
            classes.add((file, of))
        if caller is not None and caller.f_code.co_filename.startswith(HOME):
            crossings += caller.f_code.co_filename != file

    request()
    gc.disable()
    sys.setprofile(walk)
    try:
        request()
    finally:
        sys.setprofile(None)
        gc.enable()
    return Distance(len(files), len(classes), crossings)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code has no qualified name")
@pytest.mark.usefixtures("telemetry")
def test_a_failed_request_is_no_longer_way_than_it_was(api):
    with httpx.Client(trust_env=False) as client:

        def fail():
            api.answers("invalid_parameter")
            client.post(f"{api.url}/chat/completions", json={"a": os.urandom(4).hex()})

        walked = distance_of(fail)

    assert walked.files <= 29
    assert walked.classes <= 23
    assert walked.crossings <= 70


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code has no qualified name")
@pytest.mark.usefixtures("telemetry")
def test_nor_is_a_call_that_is_retried(api, monkeypatch):
    monkeypatch.setattr(openai.OpenAI, "_calculate_retry_timeout", lambda *_a, **_k: 0.0)
    with openai.OpenAI(base_url=api.url, api_key="ask_test", max_retries=2) as client:

        def call():
            api.answers("rate_limit_exceeded", times=2)
            client.chat.completions.create(model="m", messages=[])

        walked = distance_of(call)

    assert walked.crossings <= 231
