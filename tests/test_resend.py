"""What is remembered of failed attempts: how long, how much, and whose it is."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from opentelemetry import trace

from assisters_otel.api.request import AUTHORIZATION, ApiRequest
from assisters_otel.attempts.attempt import Attempt, CallerSettings, read_caller
from assisters_otel.attempts.control_flow import units
from assisters_otel.attempts.retry_chain import RetryChain
from assisters_otel.outcomes import AttemptOutcome
from assisters_otel.resends import failed_attempts, tracker
from assisters_otel.resends.tracker import ResendTracker
from sizes import sized

SECRET = "Bearer ask_0123456789abcdef"
PROMPT = b'{"input": "what the user typed"}'
REQUEST = ApiRequest("POST", "/v1/embeddings", "/v1/embeddings", "api.assisters.dev", 443)
SETTINGS = CallerSettings(shows_key=True, names=(), known={})
OK = AttemptOutcome.of(REQUEST, 0.1, status=200)
FAILED = AttemptOutcome.of(REQUEST, 0.1, status=500)


class Message:
    """A request that counts how often it is asked for what costs."""

    def __init__(self, body=PROMPT, url="https://api.assisters.dev/v1/embeddings", **headers):
        self._body = body
        self._url = url
        self._headers = headers
        self.asked = 0

    def url(self):
        self.asked += 1
        return self._url

    def header(self, name):
        return self._headers.get(name.replace("-", "_"))

    def credentials(self):
        value = self.header(AUTHORIZATION)
        return {} if value is None else {AUTHORIZATION: value}

    def body(self):
        self.asked += 1
        return self._body

    def redirect_target(self, location):
        self.asked += 1
        return location


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def resends(clock):
    return ResendTracker(clock)


def send(resends, message=None, around=trace.INVALID_SPAN):
    attempt = Attempt(REQUEST, message or Message(), None, around, None)
    attempt.caller = read_caller(attempt, SETTINGS)
    resends.started(attempt)
    return attempt


def fail(resends, message=None, around=trace.INVALID_SPAN, outcome=FAILED):
    attempt = send(resends, message, around)
    resends.failed(attempt, outcome, 0.0)
    return attempt


def under(span_id, trace_id=7):
    context = trace.SpanContext(trace_id, span_id, is_remote=False)
    return trace.NonRecordingSpan(context)


def test_within_ten_minutes_it_is_a_resend(resends, clock):
    fail(resends)
    clock.now += 599

    assert send(resends).resend.delay_s == 599


def test_after_ten_minutes_it_is_a_first(resends, clock):
    fail(resends)
    clock.now += 601

    assert send(resends).resend is None
    assert len(resends._failed.by_key) == 0


def test_after_ten_minutes_it_is_a_first_also_behind_one_whose_equal_failed_later(resends, clock):
    """One thread may have two equal streams open."""
    first, second = (send(resends, Message(b"other")) for _ in range(2))
    resends.failed(first, FAILED, 0.0)
    fail(resends)
    clock.now += 500
    resends.failed(second, FAILED, 0.0)
    clock.now += 101

    assert send(resends).resend is None
    assert send(resends, Message(b"other")).resend.delay_s == 101


def test_where_two_equal_failures_have_their_resend_nothing_is_asked(resends):
    first, second = send(resends), send(resends)
    for attempt in (first, second):
        resends.failed(attempt, FAILED, 0.0)
    assert send(resends).resend.number == 1
    thread = threading.Thread(target=fail, args=(resends,))  # so that there is one to look for
    thread.start()
    thread.join()
    message = Message(b"other")

    assert send(resends, message).resend is None
    assert message.asked == 0


def test_what_its_thread_has_sent_again_is_no_other_thread_s_to_send_again(resends):
    around = under(1)

    def twice():
        fail(resends, around=around)
        again = send(resends, around=around)
        assert again.resend.number == 1
        resends.closed(again)

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()

    assert send(resends, around=around).resend is None


def test_a_call_that_sends_each_attempt_from_a_thread_of_its_own_is_known_again(resends):
    around = under(1)

    def call():
        chain = RetryChain(None)
        numbers = []

        def send_once():
            attempt = Attempt(REQUEST, Message(), None, around, SimpleNamespace(chain=chain))
            resends.started(attempt)
            resends.failed(attempt, FAILED, 0.0)
            numbers.append(attempt.resend.number if attempt.resend else 0)

        for _ in range(2):
            thread = threading.Thread(target=send_once)
            thread.start()
            thread.join()
        return numbers

    assert call() + call() == [0, 1, 2, 3]


def test_an_idempotency_key_is_no_body_of_the_same_letters(resends):
    fail(resends, Message(b"abc"))

    assert send(resends, Message(b"other", idempotency_key="abc")).resend is None


def test_where_nothing_has_failed_nothing_is_asked(resends):
    message = Message()
    send(resends, message)

    assert message.asked == 0


def test_where_another_flow_has_failed_nothing_is_asked(resends):
    thread = threading.Thread(target=fail, args=(resends,))
    thread.start()
    thread.join()
    message = Message()

    assert send(resends, message).resend is None
    assert message.asked == 0


def test_many_failing_requests_leave_a_small_record(resends, clock):
    """All distinct, each under a span of its own."""
    many = sized(100_000)
    assert many >= 4 * failed_attempts.MAX_ENTRIES
    for number in range(many // 2):
        fail(resends, Message(b"%d" % number), under(number + 1))
        clock.now += 0.001
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(many // 2, many):
        fail(resends, Message(b"%d" % number), under(number + 1))
        clock.now += 0.001
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert len(resends._failed.by_key) == failed_attempts.MAX_ENTRIES
    assert len(resends._failed._keys_by_origin) <= failed_attempts.MAX_ENTRIES
    # All that is remembered has been replaced, and what replaced it is all that was measured.
    assert grown < failed_attempts.MAX_ENTRIES * 1024


def test_redirects_that_nobody_follows_leave_a_small_record(resends):
    def redirected():
        resends.redirected(send(resends), "https://api.assisters.dev/v1/models")

    for _ in range(500):
        thread = threading.Thread(target=redirected)
        thread.start()
        thread.join()

    assert len(resends._pending_redirects) <= tracker._MAX_PENDING_REDIRECTS


def test_no_body_and_no_key_is_held(resends):
    fail(resends, Message(authorization=SECRET))

    held = repr([vars(resends), vars(resends._failed)])
    assert "RememberedAttempt(" in held
    assert "what the user typed" not in held
    assert "ask_0123456789abcdef" not in held
    assert PROMPT not in leaves(resends._failed.by_key)


def leaves(value):
    """Every value inside nested containers."""
    if isinstance(value, dict):
        for pair in value.items():
            yield from leaves(pair)
    elif isinstance(value, (tuple, list, set)):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def test_the_digest_of_one_process_says_nothing_in_another(clock):
    first, second = ResendTracker(clock), ResendTracker(clock)
    message = Message()

    digests = [one._failed.identity_of(send(one, message)) for one in (first, second)]

    assert digests[0] != digests[1]


def test_a_retry_after_that_is_a_date_counts_from_the_answer(resends, clock):
    outcome = FAILED._replace(headers={b"retry-after": b"Thu, 01 Jan 1970 00:00:30 GMT"})
    fail(resends, outcome=outcome)
    clock.now += 29

    assert send(resends).resend.early is True


def test_a_timer_s_inaccuracy_is_not_early(resends, clock):
    fail(resends, outcome=FAILED._replace(headers={b"retry-after": b"1"}))
    clock.now += 0.995

    assert send(resends).resend.early is False


def test_a_body_that_cannot_be_read_is_none_like_others(resends):
    fail(resends, Message(None), under(1))

    assert send(resends, Message(None), under(1)).resend is None


@pytest.mark.parametrize("around", [trace.INVALID_SPAN, under(1)], ids=["no span", "a span"])
def test_a_request_that_says_nothing_is_known_under_its_span_alone(resends, around):
    fail(resends, Message(b""), around)

    is_again = send(resends, Message(b""), around).resend is not None
    assert is_again is (around is not trace.INVALID_SPAN)


def test_what_leaves_no_trace_of_its_end_does_not_pile_up_and_is_not_held(resends):
    gone = []
    for _ in range(tracker._MAX_IN_FLIGHT + 10):
        message = Message()
        gone.append(weakref.ref(message))
        send(resends, message)
    del message

    assert len(resends._in_flight) <= tracker._MAX_IN_FLIGHT
    assert not [one for one in gone if one() is not None]


@pytest.mark.parametrize("end", ["answered", "failed", "closed"])
def test_what_has_ended_is_under_way_no_more(resends, end):
    attempt = send(resends)
    if end == "answered":
        resends.answered(attempt, is_open=False)
    elif end == "failed":
        resends.failed(attempt, FAILED, 0.0)
    else:
        resends.answered(attempt, is_open=True)
        assert resends._in_flight
        resends.closed(attempt)

    assert not resends._in_flight


def test_a_task_whose_number_is_given_again_is_another(resends):
    """`id` is reused once a task is gone."""

    async def main():
        await asyncio.create_task(failing())
        for _ in range(100):
            assert await asyncio.create_task(attempt()) is None

    async def failing():
        fail(resends)

    async def attempt():
        return send(resends).resend

    asyncio.run(main())


def test_one_of_many_that_start_after_a_failure_is_its_resend(resends):
    """The others do not get the same mark: there was one attempt to be sent again."""
    marks = []

    def in_thread(step, *args):
        thread = threading.Thread(target=lambda: marks.append(step(*args)))
        thread.start()
        thread.join()

    in_thread(fail, resends, None, under(1))
    marks.clear()
    for _ in range(5):
        in_thread(send, resends, None, under(1))

    assert [one.resend is not None for one in marks] == [True, False, False, False, False]


def test_what_failed_side_by_side_is_nobody_s_to_send_again(resends, clock):
    """Equal requests under one span, each in a thread that ends: a fan-out."""

    def overlapping():
        attempt = send(resends, None, under(1))
        barrier.wait()
        with one_by_one:
            clock.now += 0.01
            resends.failed(attempt, FAILED, 0.0)

    barrier, one_by_one = threading.Barrier(3), threading.Lock()
    threads = [threading.Thread(target=overlapping) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert send(resends, None, under(1)).resend is None


def test_a_fan_out_that_is_forgotten_says_nothing_of_what_fails_now(resends, clock):
    """The last of them was sent meanwhile, and has waited for its answer since."""
    sent = []

    def start():
        sent.append(send(resends, None, under(1)))
        sent[-1].origin()  # of this thread

    def in_threads_of_their_own(number):
        for _ in range(number):
            thread = threading.Thread(target=start)
            thread.start()
            thread.join()

    in_threads_of_their_own(2)
    clock.now += 1
    for attempt in sent:
        resends.failed(attempt, FAILED, 0.0)
    in_threads_of_their_own(1)
    clock.now += 601
    resends.failed(sent[-1], FAILED, 0.0)

    assert sent[-1].resend is None
    assert send(resends, None, under(1)).resend.number == 1


def test_a_parent_that_is_another_span_of_the_trace_will_do_for_one_flow(resends):
    fail(resends, None, under(1))

    assert send(resends, None, under(2)).resend is not None


def test_a_parent_in_another_trace_will_not(resends):
    fail(resends, None, under(1, trace_id=1))

    assert send(resends, None, under(1, trace_id=2)).resend is None


def test_a_success_in_between_is_forgotten_under_the_parent_too(resends):
    fail(resends, None, under(1))
    send(resends, None, under(1))

    with ThreadPoolExecutor() as pool:
        assert pool.submit(send, resends, None, under(1)).result().resend is None


# -- units of work ------------------------------------------------------------------------------


@contextmanager
def unit(name):
    units.start(name)
    try:
        yield
    finally:
        units.end(name)


@pytest.mark.parametrize(("passed_s", "number"), [(0.0, None), (0.001, 1)])
def test_a_success_of_the_same_tick_may_have_come_after_the_failure(
    resends, clock, passed_s, number
):
    """What says nothing of itself is a resend only where none can have succeeded since."""
    bare, around = Message(b""), under(1)
    fail(resends, bare, around)
    again = send(resends, bare, around)
    resends.answered(again, is_open=False)
    clock.now += passed_s
    fail(resends, bare, around)

    resend = send(resends, bare, around).resend

    assert again.resend.number == 1
    assert (resend and resend.number) == number


def test_another_unit_sends_nothing_again(resends):
    """One thread of a worker's does one task after the other, under one trace even."""
    with unit("a"):
        fail(resends, around=under(1))
    with unit("b"):
        other = send(resends, around=under(1)).resend
    outside = send(resends, around=under(1)).resend

    assert (other, outside) == (None, None)


@pytest.mark.parametrize(
    "around", [under(2, trace_id=8), trace.INVALID_SPAN], ids=["trace", "none"]
)
def test_a_unit_that_is_run_again_sends_again(resends, around):
    with unit("a"):
        fail(resends, around=under(1))
    with unit("a"):
        again = send(resends, around=around).resend

    assert again is not None


def test_a_unit_that_is_run_again_by_another_thread_sends_again(resends):
    def run(step):
        with unit("a"):
            return step(resends)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, fail).result()
        time.sleep(0.1)  # the thread has nothing to do any more

        assert run(send).resend is not None


def test_equal_requests_of_two_units_at_once_are_no_company(resends):
    """Each of them meets an error that no retry helps, and sends that again by itself."""
    refused = AttemptOutcome.of(REQUEST, 0.1, status=401)
    with unit("a"):
        mine = send(resends)
        with unit("b"):
            send(resends)
        resends.failed(mine, refused, 0.0)

        assert send(resends).resend.futile


@pytest.mark.parametrize("around", [under(1), trace.INVALID_SPAN], ids=["under a span", "alone"])
def test_a_thread_that_works_for_any_of_several_units_is_known_by_its_trace_alone(resends, around):
    """The thread of an executor that all tasks share."""
    units.start("a")
    units.start("b")
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fail, resends, None, around).result()
            again = pool.submit(send, resends, None, around).result()
    finally:
        units.end("a")

    assert (again.resend is not None) == (around is not trace.INVALID_SPAN)
