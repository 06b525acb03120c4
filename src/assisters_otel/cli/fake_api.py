"""``assisters-otel fake-api``: the fake API on this machine, until it is interrupted."""

from __future__ import annotations

import inspect
import json as json_
import signal
import threading
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


def fake_api(
    *,
    port: Annotated[int, typer.Option(min=0, max=_LAST_PORT, help="0 takes one that is free.")] = 0,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, exists=True, help="What to answer, in order."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Serve.

    Raises:
        typer.BadParameter: The script cannot be used, or the port is taken.
    """
    from assisters_otel.testing import FakeApi  # noqa: PLC0415 - the extra's

    api = FakeApi(port=port)
    if script is not None:
        _read(script, api)
    try:
        api.start()
    except OSError as error:
        raise typer.BadParameter(f"port {port} cannot be used: {error.strerror}") from error
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        if json:
            output.show_json({"url": api.url}, in_one_line=True)
        else:
            output.show(output.uncut(_greeting(api.url)))
        over.wait()
    finally:
        api.stop()


def _greeting(url: str) -> str:
    return (
        f"Fake Assisters API on {url}, until Ctrl-C. In another terminal:\n"
        f"  export ASSISTERS_BASE_URL={url} ASSISTERS_API_KEY=ask_any"
    )


def _read(script: Path, api: FakeApi) -> None:
    try:
        answers = json_.loads(script.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(f"{script} is no JSON: {error}") from error
    if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
        raise typer.BadParameter(f'{script}: write a list of objects, [{{"codes": ["ok"]}}]')
    for number, one in enumerate(answers, 1):
        _add(api, one, f"{script}, answer {number}")


def _add(api: FakeApi, answer: dict[str, Any], where: str) -> None:
    codes = answer.pop("codes", [])
    known = inspect.signature(api.answers).parameters
    odd = next((name for name in answer if name not in known), None)
    if odd is not None:
        words = ", ".join(sorted(known))
        raise typer.BadParameter(f"{where}: no answer has {odd!r}. Write some of {words}")
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise typer.BadParameter(f'{where}: codes is a list. Write "codes": ["ok"]')
    try:
        api.answers(*codes, **answer)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{where}: {error}") from error
