"""Plays the scenes, and compares what was recorded with what each scene expects."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.metrics.export import NumberDataPoint
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_RESEND_COUNT,
)
from opentelemetry.trace import format_trace_id

from assisters_otel import init
from assisters_otel.cli.captured_log import captured_log
from assisters_otel.cli.demo.scenes import SCENES, TENANT, Scene
from assisters_otel.cli.span_text import call_outcome, error_name, stream_outcome
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.testing import FakeApi
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.metrics.export import Metric
    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.cli.demo.recording import Recording

_SCOPE: Final = f"{names.SCOPE}.demo"
"""The instrumentation scope of the span around each scene."""


class PlayedScene(Record):
    """One scene after it was played.

    Attributes:
        scene: The scene.
        span: The span around it.
        spans: All other spans of its trace, the earliest start first.
    """

    scene: Scene
    span: ReadableSpan
    spans: tuple[ReadableSpan, ...]

    @property
    def trace_id(self) -> str:
        """The trace id in hex, as backends search for it."""
        return format_trace_id(self.span.context.trace_id)

    @property
    def attempts(self) -> tuple[ReadableSpan, ...]:
        """The spans of HTTP attempts."""
        return tuple(span for span in self.spans if is_attempt(span))

    @property
    def calls(self) -> tuple[ReadableSpan, ...]:
        """The spans of an SDK's calls."""
        return tuple(span for span in self.spans if call_outcome(span.attributes or {}))

    @property
    def streams(self) -> tuple[ReadableSpan, ...]:
        """The spans with an event stream's outcome, the earliest end first.

        Such a span is an SDK's call or, outside a call, the stream's own.
        """
        found = [span for span in self.spans if stream_outcome(span.attributes or {})]
        return tuple(sorted(found, key=lambda span: span.end_time or 0))


class DemoResult(Record):
    """The demo after its last scene.

    Attributes:
        played: The scenes.
        metrics: The library's metrics after the last scene.
        log: The lines that the library logged while the clients ran.
        destinations: Where the telemetry was sent, in words; empty if nowhere.
        sent: True if all of it was accepted there, None if nothing was to be sent.
        problems: The differences from what the scenes expect, and other trouble, in words.
    """

    played: tuple[PlayedScene, ...]
    metrics: tuple[Metric, ...]
    log: tuple[str, ...]
    destinations: tuple[str, ...]
    sent: bool | None
    problems: tuple[str, ...]


def run_scenes(recording: Recording) -> DemoResult:
    """Play all scenes against a fake API on loopback.

    Args:
        recording: The providers that record the telemetry. They are shut down here.
    """
    tracer = recording.tracer_provider.get_tracer(_SCOPE, __version__)
    with (
        captured_log() as log,
        FakeApi() as api,
        init(
            # Without a port, so that the refused connection of a scene is watched as well.
            hosts=[api.host],
            baggage=(TENANT,),
            tracer_provider=recording.tracer_provider,
            meter_provider=recording.meter_provider,
        ) as telemetry,
    ):
        for scene in SCENES:
            with tracer.start_as_current_span(scene.title):
                scene.play(api)
        trouble = telemetry.status().last_failure
        metrics = recording.metrics()
        log_of_clients = tuple(log)
        sent = recording.end()
    played = tuple(_played(scene, recording.spans()) for scene in SCENES)
    problems = [*_wrong_spans(played), *_wrong_metrics(metrics)]
    problems += [f"trouble of the library's own: {trouble}"] if trouble else []
    if sent is False:
        log_of_sending = log[len(log_of_clients) :]
        problems += log_of_sending or ["the telemetry did not arrive in time"]
    return DemoResult(
        played, metrics, log_of_clients, recording.destinations, sent, tuple(problems)
    )


def is_attempt(span: ReadableSpan) -> bool:
    """Return True if the span is one HTTP attempt's, and not that of an SDK's call around it.

    The library makes both, in one scope and of one kind. Only the attempt's has a method.
    """
    return HTTP_REQUEST_METHOD in (span.attributes or {})


def _played(scene: Scene, spans: list[ReadableSpan]) -> PlayedScene:
    around = next(span for span in spans if span.parent is None and span.name == scene.title)
    trace_id = around.context.trace_id
    others = [span for span in spans if span.context.trace_id == trace_id and span is not around]
    return PlayedScene(scene, around, tuple(others))


def _wrong_spans(played: tuple[PlayedScene, ...]) -> Iterator[str]:
    """Yield each difference between a scene's spans and what the scene expects of them."""
    for result in played:
        scene = result.scene
        attempts = [span.attributes or {} for span in result.attempts]
        calls = [span.attributes or {} for span in result.calls]
        streams = [span.attributes or {} for span in result.streams]
        for what, seen, expected in (
            ("spans", [error_name(one) for one in attempts], scene.errors),
            (
                "resend counts",
                [one.get(HTTP_REQUEST_RESEND_COUNT, 0) for one in attempts],
                scene.resends,
            ),
            ("call spans", [call_outcome(one) for one in calls], scene.outcomes),
            ("streams", [(stream_outcome(one), error_name(one)) for one in streams], scene.streams),
        ):
            if tuple(seen) != expected:
                yield f"{scene.title}: the {what} say {tuple(seen)} in place of {expected}"


def _wrong_metrics(metrics: tuple[Metric, ...]) -> Iterator[str]:
    """Yield each counter that differs from the sum of what the scenes expect."""
    errors: Counter[str | None] = Counter()
    retries: Counter[str | None] = Counter()
    outcomes: Counter[str | None] = Counter()
    for scene in SCENES:
        errors.update(name for name in scene.errors if name is not None)
        errors.update(name for _, name in scene.streams if name is not None)
        errors_before = (None, *scene.errors[:-1])
        resent = zip(errors_before, scene.resends, strict=True)
        retries.update(reason for reason, number in resent if number)
        outcomes.update(scene.outcomes)
    for name, expected, key in (
        (metric_names.ERRORS.name, errors, error_name),
        (metric_names.RETRIES.name, retries, _retry_reason),
        (metric_names.OPERATION_DURATION.name, outcomes, call_outcome),
    ):
        seen: Counter[str | None] = Counter()
        for point in (p for m in metrics if m.name == name for p in m.data.data_points):
            number = point.value if isinstance(point, NumberDataPoint) else point.count
            seen[key(point.attributes or {})] += int(number)
        if seen != expected:
            yield f"{name} counts {dict(seen)} in place of {dict(expected)}"


def _retry_reason(attributes: Mapping[str, object]) -> str | None:
    reason = attributes.get(names.RETRY_REASON)
    return None if reason is None else str(reason)
