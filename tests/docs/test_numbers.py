"""The numbers that the pages promise are the code's, from which tests of the bounds take them."""

from __future__ import annotations

import re

import pytest
from pages import ROOT

from assisters_otel.api import identity, limits
from assisters_otel.resends import failed_attempts
from assisters_otel.sinks import caller_labels, failure_log, label_values, rate_limits

PROMISED = [
    (limits.MAX_BYTES, 64 * 1024, "spans", "in the first 64 KiB of the body"),
    (limits.MAX_MESSAGE, 256, "spans", "256 characters at most"),
    (limits.MAX_VALUE, 128, "own-attributes", "cut to 128 characters"),
    (identity.MIN_KEY_LENGTH, 20, "spans", "a key of 20 characters or more"),
    (identity.DIGITS, 8, "spans", "the first 8 digits of the key's SHA-256"),
    (failed_attempts.WINDOW_S, 600, "retries", "ten minutes"),
    (rate_limits.FRESH_S, 120, "metrics", "for two minutes after it"),
    (label_values.MAX_EXTRA_VALUES, 20, "metrics", "and 20 more of each"),
    (label_values.MAX_MODELS, 50, "metrics", "| models | 50 |"),
    (caller_labels.MAX_KEYS, 20, "metrics", "| keys | 20 at the same time"),
    (caller_labels.FREE_AFTER_S, 3600, "metrics", "not used for an hour"),
    (caller_labels.MAX_BAGGAGE_VALUES, 50, "metrics", "of the baggage | 50 at the same time"),
    (caller_labels.MAX_SETS, 1000, "metrics", "more than 1,000 sets of labels"),
    (caller_labels._BOUNDS[0], 400, "metrics", "From 400 on new sets"),
    (caller_labels._BOUNDS[1], 800, "metrics", "from 800 on in place of the key"),
    (caller_labels._BOUNDS[2], 900, "metrics", "from 900 on in place of the model"),
    (failure_log.MAX_SINGLE_LINES, 5, "errors", "the same failure has five lines"),
]


@pytest.mark.parametrize(("number", "promised", "page", "words"), PROMISED)
def test_a_number_that_a_page_promises_is_the_code_s(number, promised, page, words):
    text = re.sub(r"\s+", " ", (ROOT / "docs" / f"{page}.md").read_text("utf-8"))

    assert words in text
    assert number == promised
