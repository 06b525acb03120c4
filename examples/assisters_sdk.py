"""The assisters SDK, whose exceptions have lost code and id. python examples/assisters_sdk.py."""

import os

import assisters

import assisters_otel

assisters_otel.init("assisters-sdk")

client = assisters.Assisters(
    os.environ["ASSISTERS_API_KEY"],
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
)
try:
    answer = client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": "Say hello."}]
    )
    print(answer["choices"][0]["message"]["content"])
except assisters.AssistersAPIError as error:
    told = assisters_otel.explain(error)  # from what was seen of that very call
    print(told.code, told.request_id)
