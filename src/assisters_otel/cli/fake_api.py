"""``assisters-otel fake-api``: a `FakeApi` in a process of its own, for apps in any language."""

from __future__ import annotations

import ast
import inspect
import re
import signal
import threading
from json import dumps, loads
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from assisters_otel.cli import output

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi

HELP: Final = (
    "Serve a fake Assisters API on loopback until Ctrl-C. What it is not told to do otherwise "
    "it does well. A script is a JSON list of answers, each an object with the arguments of "
    'FakeApi.answers: [{"codes": ["rate_limit_exceeded", "ok"], "retry_after": 2}].'
)
_LAST_PORT: Final = 65535
_PYTHON: Final = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"|answers\((?P<codes>[^()]*)\)"
    r"|\b(?P<name>[a-z_]+)=(?P<value>(?=[\w'\"{\[]))?"
    r"|\b(?P<word>True|False|None|nan|inf)\b"
)
"""The Python in the errors of `FakeApi.answers`: text, a call, the name of an argument, a word."""
_WORDS: Final = {"True": "true", "False": "false", "None": "null", "nan": "NaN", "inf": "Infinity"}
_ONLY_PYTHON: Final = "text, bytes or a list of bytes"
"""The kinds of body that Python can give. JSON has text alone."""


def fake_api(
    *,
    port: Annotated[int, typer.Option(min=0, max=_LAST_PORT, help="0 takes one that is free.")] = 0,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, exists=True, help="What to answer, in order."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        typer.BadParameter: The script cannot be used, or the port is taken.
    """
    from assisters_otel.testing import FakeApi  # noqa: PLC0415 - of another extra

    api = FakeApi(port=port)
    if script is not None:
        _add_answers(script, api)
    try:
        api.start()
    except OSError as error:
        raise typer.BadParameter(f"port {port} cannot be used: {error.strerror}") from error
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    try:
        if json:
            output.show_json({"url": api.url}, in_one_line=True)
        else:
            output.show(output.uncut(_greeting(api.url)))
        interrupted.wait()
    finally:
        api.stop()


def _greeting(url: str) -> str:
    return (
        f"Fake Assisters API on {url}, until Ctrl-C. In another terminal:\n"
        f"  export ASSISTERS_BASE_URL={url} ASSISTERS_API_KEY=ask_any-key-is-accepted"
    )


def _add_answers(script: Path, api: FakeApi) -> None:
    """Append the answers of a script file to the fake API's script."""
    try:
        answers = loads(script.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(f"{script} is no JSON: {error}") from error
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise typer.BadParameter(f'{script}: write a list of objects, [{{"codes": ["ok"]}}]')
    for number, answer in enumerate(answers, 1):
        _add(api, answer, f"{script}, answer {number}")


def _add(api: FakeApi, answer: dict[str, Any], where: str) -> None:
    """Append one answer, which has the arguments of `FakeApi.answers`, or say what is wrong."""
    codes = answer.pop("codes", [])
    known = inspect.signature(api.answers).parameters
    unknown = next((name for name in answer if name not in known), None)
    if unknown is not None:
        names = ", ".join(sorted(known))
        raise typer.BadParameter(f"{where}: no answer has {dumps(unknown)}. Write some of {names}")
    if not isinstance(codes, list):
        raise typer.BadParameter(f'{where}: codes is a list. Write "codes": ["ok"]')
    try:
        api.answers(*codes, **answer)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{where}: {_in_json(str(error))}") from error


def _in_json(text: str) -> str:
    """Return a text of `FakeApi.answers` with its Python written as a script has it."""
    return _PYTHON.sub(_write_json, text.replace(_ONLY_PYTHON, "text"))


def _write_json(found: re.Match[str]) -> str:
    if found["text"]:
        return dumps(ast.literal_eval(found["text"]), ensure_ascii=False)
    if found["codes"] is not None:
        return f'"codes": [{_in_json(found["codes"])}]'
    if found["name"]:
        return f'"{found["name"]}"' if found["value"] is None else f'"{found["name"]}": '
    return _WORDS[found["word"]]
