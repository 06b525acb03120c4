"""`check_retries`: is a retry policy as good as the API's documentation asks for?"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import ExitStack
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from assisters_otel import logger
from assisters_otel.api import redaction
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.testing.recording import recorded
from assisters_otel.testing.retry_policy import jitter, rules, scenarios
from assisters_otel.testing.retry_policy.evidence import Evidence, asks_for_stream
from assisters_otel.testing.retry_policy.judging import judge
from assisters_otel.testing.retry_policy.playing import Player
from assisters_otel.testing.retry_policy.report import RetryPolicyError, RetryReport, RetryRow
from assisters_otel.testing.retry_policy.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.testing.recorded_telemetry import Recorded
    from assisters_otel.testing.retry_policy.playing import Played
    from assisters_otel.testing.retry_policy.report import Outcome
    from assisters_otel.testing.server import FakeApi

_LONGEST_S: Final = 86_400.0
_TOLD: Final = 200
"""The number of characters of an exception's text that are quoted."""
_OUTCOMES: Final[dict[bool | None, Outcome]] = {
    True: "kept",
    False: "broken",
    None: "not judged",
}


class Words(Record):
    """The words for the arguments in the text of a ValueError.

    Attributes:
        call: The name of the call.
        limit_s: The name of the limit.
        write_limit_s: A right limit, as its user writes it.
    """

    call: str = "call"
    limit_s: str = "limit_s"
    write_limit_s: str = "limit_s=60"


def check_retries(
    call: Callable[[FakeApi], object],
    *,
    leave_out: Collection[str] = (),
    succeeded: Callable[[object], bool] | None = None,
    parallel: bool = True,
    limit_s: float = 60,
) -> RetryReport:
    """Prove a retry policy: play a call against an API that fails in every documented way.

    ::

        def ask(api: FakeApi) -> None:
            client = openai.OpenAI(base_url=api.url, api_key="ask_test", max_retries=3)
            client.embeddings.create(model="assisters-embed-v1", input="hello")

        def test_our_retries():
            check_retries(ask)

    Some forty calls are played at once, each in a thread of its own. They take as long as the
    slowest. If their pauses differ, a dozen calls follow, half a second apart, which show whether
    that is jitter. For a policy that waits seconds all this takes less than a minute. Nothing of
    it is exported or logged.

    Args:
        call: Calls the API once at ``api.url``, as the app does, and reads an event stream to its
            end. It may be a coroutine function. All coroutines share one asyncio event loop.
        leave_out: The names of rules that are not judged.
        succeeded: Takes the value that *call* has returned, and returns False if that is a failure.
            None if the call raises each failure.
        parallel: False to play one call after the other, where they would disturb each other by
            globals of the app (a circuit breaker).
        limit_s: How long a call may take, in seconds.

    Returns:
        The report, with a row for each rule. It may have remarks, and has no errors.

    Raises:
        RetryPolicyError: A rule of the kind "error" is broken. The text is the table of the report,
            and the attribute `report` the report.
        ValueError: An argument is wrong, or *call* does not call the API where all is well.
    """
    return check_policy(
        call,
        leave_out=leave_out,
        succeeded=succeeded,
        parallel=parallel,
        limit_s=limit_s,
        words=Words(),
    )


def check_policy(  # noqa: PLR0913 - the arguments of check_retries, and the words
    call: Callable[[FakeApi], object],
    *,
    leave_out: Collection[str],
    succeeded: Callable[[object], bool] | None,
    parallel: bool,
    limit_s: float,
    words: Words,
) -> RetryReport:
    """Do what `check_retries` does; a ValueError names the arguments by *words*."""
    _check(call, leave_out, succeeded, limit_s, words)
    if not isinstance(parallel, bool):
        raise ValueError(f"parallel is a switch, not {parallel!r}: write parallel=False")
    began_s = time.monotonic()
    wanted = {name for name in rules.NAMES if name not in leave_out}
    with ExitStack() as stack:
        stack.enter_context(logger.captured(elsewhere=False))
        seen = stack.enter_context(recorded())
        player = Player(call, limit_s)
        stack.callback(player.close)
        (well,) = player.play([scenarios.WELL], parallel=False)
        _check_call(well, succeeded, words)
        chosen = [*scenarios.scenarios(parallel=parallel)]
        if asks_for_stream(well.requests[0]):
            chosen.append(scenarios.BROKEN_OFF)
        played = player.play(
            [one for one in chosen if not wanted.isdisjoint(one.rules)], parallel=parallel
        )
        evidence = Evidence(played, _judging(succeeded), _calls_by_port(seen))
        refused = jitter.refusals_to_judge(evidence) if "jitter" in wanted else 0
        if refused:
            with Timer() as timer:
                spaced = player.play_spaced(scenarios.spaced(refused), parallel=parallel)
            evidence = evidence._replace(played=[*played, *spaced], late_s=timer.late_s)
    report = RetryReport(
        tuple(_row(rule, evidence, wanted) for rule in rules.RULES),
        len(evidence.played) + 1,
        time.monotonic() - began_s,
    )
    if not report.ok:
        raise RetryPolicyError(report)
    return report


def _row(rule: rules.Rule, evidence: Evidence, wanted: Collection[str]) -> RetryRow:
    if rule.name not in wanted:
        return RetryRow(
            rule.name, rule.kind, "left out", rule.expected, "", rule.advice, rule.source
        )
    found = judge(rule.name, evidence)
    outcome = _OUTCOMES[found.is_kept]
    return RetryRow(
        rule.name,
        rule.kind,
        outcome,
        rule.expected,
        found.seen,
        found.advice or rule.advice,
        rule.source,
    )


def _judging(succeeded: Callable[[object], bool] | None) -> Callable[[Played], bool]:
    def has_succeeded(one: Played) -> bool:
        if not one.has_ended or one.error is not None:
            return False
        return succeeded is None or bool(succeeded(one.value))

    return has_succeeded


def _calls_by_port(seen: Recorded) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for call in seen.calls:
        attributes = call.attributes or {}
        port, resends = attributes.get("server.port"), attributes.get(names.RETRY_COUNT)
        if isinstance(port, int) and isinstance(resends, int):
            found.setdefault(port, []).append(1 + resends)
    return found


def _check(
    call: object, leave_out: Collection[str], succeeded: object, limit_s: float, words: Words
) -> None:
    if not callable(call):
        raise ValueError(
            f"call is a function that takes the API, not {type(call).__name__}: "
            "write check_retries(lambda api: my_app.ask(api.url))"
        )
    is_list = isinstance(leave_out, Collection) and not isinstance(leave_out, str)
    if not is_list or not all(isinstance(one, str) for one in leave_out):
        raise ValueError("leave_out is a list of names: write leave_out=['jitter']")
    for name in leave_out:
        if name not in rules.NAMES:
            near = get_close_matches(name, rules.NAMES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{name!r} is no rule: {hint}write some of {', '.join(rules.NAMES)}")
    if succeeded is not None and not callable(succeeded):
        raise ValueError(
            f"succeeded is a function, not {type(succeeded).__name__}: "
            "write succeeded=lambda response: response.is_success"
        )
    is_number = isinstance(limit_s, int | float) and not isinstance(limit_s, bool)
    if not is_number or not 0 < limit_s <= _LONGEST_S:
        raise ValueError(
            f"{words.limit_s} is a number of seconds, not {limit_s!r}: write {words.write_limit_s}"
        )


def _check_call(well: Played, succeeded: Callable[[object], bool] | None, words: Words) -> None:
    """Refuse a call that does not call the API, or that fails where all is well."""
    if not well.has_ended:
        raise ValueError(
            f"{words.call} does not end where all is well: give it less to do, or a longer "
            f"{words.limit_s}"
        )
    if well.error is not None:
        if not isinstance(well.error, Exception):
            raise well.error
        what, hint = "where all is well", ""
        if not well.requests:
            what = "before it has sent anything to api.url"
            hint = ", and see that no proxy is in between: NO_PROXY=127.0.0.1"
        told = redaction.clean(f"{type(well.error).__name__}: {well.error}", _TOLD)
        raise ValueError(
            f"{words.call} fails {what}, with {told}. "
            f"Write a function that calls the API at api.url{hint}"
        ) from well.error
    if not well.requests:
        raise ValueError(
            f"{words.call} has sent nothing to api.url: write base_url=api.url, and see that no "
            "proxy or test double of the client is in between"
        )
    if succeeded is not None and not succeeded(well.value):
        raise ValueError(
            f"succeeded() says no to {type(well.value).__name__} where all is well: "
            "it returns True for what call returns then"
        )
