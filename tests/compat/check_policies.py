"""Which rules a framework's own retries break: python check_policies.py litellm|langchain.

It runs inside an environment that `policies.py` has made, against a server on this machine.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from assisters_otel.testing import RetryPolicyError, check_retries

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.testing import FakeApi, RetryReport

MESSAGES = [{"role": "user", "content": "hello"}]
PATIENCE_S = 4


def of_litellm() -> Callable[[FakeApi], object]:
    """A Router as it comes: it retries twice, and takes the SDK's retries away."""
    import litellm

    litellm.suppress_debug_info = True

    def call(api: FakeApi) -> None:
        deployment = {
            "model": "openai/assisters-chat-v1",
            "api_base": api.url,
            "api_key": "ask_test",
            "timeout": PATIENCE_S,
        }
        router = litellm.Router(model_list=[{"model_name": "chat", "litellm_params": deployment}])
        router.completion(model="chat", messages=MESSAGES)

    return call


def of_langchain() -> Callable[[FakeApi], object]:
    """`with_retry` as it comes: each exception three times, around three of the SDK's own."""
    from langchain_openai import ChatOpenAI

    def call(api: FakeApi) -> None:
        model = ChatOpenAI(
            base_url=api.url, api_key="ask_test", model="assisters-chat-v1", timeout=PATIENCE_S
        )
        model.with_retry().invoke("hello")

    return call


POLICIES = {"litellm": of_litellm, "langchain": of_langchain}


def report(call: Callable[[FakeApi], object]) -> RetryReport:
    try:
        return check_retries(call)
    except RetryPolicyError as error:
        return error.report


def main() -> None:
    name = sys.argv[1]
    found = report(POLICIES[name]())
    told = {row.rule: row.seen for row in (*found.errors, *found.remarks)}
    print(found)
    if name == "litellm":
        # It cuts the seconds until a date down to whole ones: too early, unless there are few more.
        assert set(told) - {"retry_after"} == {"hopeless", "idempotency"}, told
        # Its exceptions are by status, and it takes a 403 for a fault of the network's.
        assert told["hopeless"] == "sent again after origin_not_allowed, tokens_exhausted", told
    else:
        assert set(told) == {"hopeless", "layers", "idempotency"}, told
        assert told["hopeless"] == "sent again after all 12", told
        assert told["layers"] == "9 attempts: 3 in each of 3 calls", told


if __name__ == "__main__":
    main()
