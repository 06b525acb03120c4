"""The openai SDK: what did the API refuse, and why? python examples/openai_sdk.py."""

import os

import openai

import assisters_otel

assisters_otel.init("openai-sdk")

client = openai.OpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ["ASSISTERS_API_KEY"],
)
try:
    answer = client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": "Say hello."}]
    )
    print(answer.choices[0].message.content)
except openai.OpenAIError as error:
    print(assisters_otel.explain(error))
