"""A function on AWS Lambda; nothing is to do at the end of an invocation.

Its handler is ``lambda_function.handler``, as Lambda has it by default.
"""

import os
from typing import Any

import openai

import assisters_otel

assisters_otel.init("greetings")
client = openai.OpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ.get("ASSISTERS_API_KEY", "ask_missing"),
)


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Ask for a greeting; tell whoever invokes it whether to try again."""
    try:
        answer = client.chat.completions.create(
            model="assisters-chat-v1",
            messages=[{"role": "user", "content": f"Greet {event['name']}."}],
        )
    except openai.OpenAIError as error:
        told = assisters_otel.explain(error)
        return {"error": told.user_message, "retry": told.retryable, "reference": told.request_id}
    return {"greeting": answer.choices[0].message.content}
