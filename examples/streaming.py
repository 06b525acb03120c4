"""A stream that fails after its 200: who notices? python examples/streaming.py."""

import os

import openai

import assisters_otel

assisters_otel.init("streaming")

client = openai.OpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ["ASSISTERS_API_KEY"],
)
try:
    stream = client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": "Say hello."}], stream=True
    )
    # An end without [DONE] is no exception: it is on the call's span, as `truncated`.
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
except openai.APIError as error:
    print(f"\n{assisters_otel.explain(error).what}")
