"""Plays the scenes, and says whether they came out as they should."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry.sdk.metrics.export import NumberDataPoint
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_RESEND_COUNT
from opentelemetry.trace import SpanKind, format_trace_id

from assisters_otel import init
from assisters_otel.cli.captured_log import captured_log
from assisters_otel.cli.demo.scenes import SCENES, Scene
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


class PlayedScene(NamedTuple):
    """One scene that has been played.

    Attributes:
        scene: Which.
        span: The span around it.
        spans: All others of its trace, the earliest start first.
    """

    scene: Scene
    span: ReadableSpan
    spans: tuple[ReadableSpan, ...]

    @property
    def trace_id(self) -> str:
        """In hex, as backends search for it."""
        return format_trace_id(self.span.context.trace_id)

    @property
    def attempts(self) -> tuple[ReadableSpan, ...]:
        """The spans of HTTP attempts."""
        return tuple(span for span in self.spans if is_attempt(span))

    @property
    def calls(self) -> tuple[ReadableSpan, ...]:
        """The spans of an SDK's calls."""
        return tuple(span for span in self.spans if outcome(span.attributes))

    @property
    def streams(self) -> tuple[ReadableSpan, ...]:
        """The spans that tell of an event stream: an SDK's call, or one of its own."""
        told = [span for span in self.spans if stream(span.attributes)]
        return tuple(sorted(told, key=lambda span: span.end_time or 0))


class DemoResult(NamedTuple):
    """What the demo has to show.

    Attributes:
        played: The scenes.
        metrics: Our metrics at the end.
        log: What the library logged while the clients ran, one line each.
        destinations: Where telemetry went, for people; empty if it went nowhere.
        sent: Whether it arrived there, or None if it was to go nowhere.
        problems: What did not come out as it should, for people.
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
        recording: What takes the telemetry; it is ended here.
    """
    tracer = recording.tracer_provider.get_tracer(_SCOPE, __version__)
    with (
        captured_log() as heard,
        FakeApi() as api,
        init(
            hosts=[api.host],  # every port, so that the refused connection is one of ours
            tracer_provider=recording.tracer_provider,
            meter_provider=recording.meter_provider,
        ) as telemetry,
    ):
        for scene in SCENES:
            with tracer.start_as_current_span(scene.title):
                scene.play(api)
        trouble = telemetry.status().last_failure
        metrics = recording.metrics()
        said = tuple(heard)
        sent = recording.end()
    played = tuple(_played(scene, recording.spans()) for scene in SCENES)
    problems = [*_wrong_spans(played), *_wrong_metrics(metrics)]
    problems += [f"trouble of the library's own: {trouble}"] if trouble else []
    if sent is False:
        problems += heard[len(said) :] or ["the telemetry did not arrive in time"]
    return DemoResult(played, metrics, said, recording.destinations, sent, tuple(problems))


def is_attempt(span: ReadableSpan) -> bool:
    """Say whether a span is one HTTP attempt's, and not that of an SDK's call around it."""
    scope = span.instrumentation_scope
    return span.kind is SpanKind.CLIENT and scope is not None and scope.name != names.SCOPE


def error(attributes: Mapping[str, object] | None) -> str | None:
    """Name the error that a span or a metric point tells of: its code, else its type."""
    found = attributes or {}
    name = found.get(names.ERROR_CODE, found.get(ERROR_TYPE))
    return None if name is None else str(name)


def outcome(attributes: Mapping[str, object] | None) -> str | None:
    """Say how the call ended that a span or a metric point tells of; None if it is of none."""
    found = (attributes or {}).get(names.CALL_OUTCOME)
    return None if found is None else str(found)


def stream(attributes: Mapping[str, object] | None) -> str | None:
    """Say how the event stream ended that a span tells of; None if it is of none."""
    found = (attributes or {}).get(names.STREAM_OUTCOME)
    return None if found is None else str(found)


def _played(scene: Scene, spans: list[ReadableSpan]) -> PlayedScene:
    around = next(span for span in spans if span.parent is None and span.name == scene.title)
    trace_id = around.context.trace_id
    others = [span for span in spans if span.context.trace_id == trace_id and span is not around]
    return PlayedScene(scene, around, tuple(others))


def _wrong_spans(played: tuple[PlayedScene, ...]) -> Iterator[str]:
    for one in played:
        scene, attempts = one.scene, [span.attributes or {} for span in one.attempts]
        resends = (attributes.get(HTTP_REQUEST_RESEND_COUNT, 0) for attributes in attempts)
        streams = tuple((stream(a.attributes), error(a.attributes)) for a in one.streams)
        for what, seen, wanted in (
            ("spans", tuple(error(attributes) for attributes in attempts), scene.errors),
            ("resend counts", tuple(resends), scene.resends),
            ("call spans", tuple(outcome(call.attributes) for call in one.calls), scene.outcomes),
            ("streams", streams, scene.streams),
        ):
            if seen != wanted:
                yield f"{scene.title}: the {what} say {seen} in place of {wanted}"


def _wrong_metrics(metrics: tuple[Metric, ...]) -> Iterator[str]:
    errors: Counter[str | None] = Counter()
    retries: Counter[object] = Counter()
    outcomes: Counter[str | None] = Counter()
    for scene in SCENES:
        errors.update(name for name in scene.errors if name is not None)
        errors.update(name for _, name in scene.streams if name is not None)
        before = (None, *scene.errors[:-1])
        resent = zip(before, scene.resends, strict=True)
        retries.update(reason for reason, number in resent if number)
        outcomes.update(scene.outcomes)
    for name, wanted, key in (
        (metric_names.ERRORS.name, errors, error),
        (metric_names.RETRIES.name, retries, _reason),
        (metric_names.CALL_DURATION.name, outcomes, outcome),
    ):
        seen: Counter[object] = Counter()
        for point in (p for m in metrics if m.name == name for p in m.data.data_points):
            number = point.value if isinstance(point, NumberDataPoint) else point.count
            seen[key(point.attributes)] += int(number)
        if seen != wanted:
            yield f"{name} counts {dict(seen)} in place of {dict(wanted)}"


def _reason(attributes: Mapping[str, object] | None) -> object:
    return (attributes or {}).get(names.RETRY_REASON)
