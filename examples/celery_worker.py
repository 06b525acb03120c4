"""Tasks that call the API; nothing is to do at their process's end. See `app` below.

celery -A celery_worker worker, in this folder.
"""

import os

import openai
from celery import Celery, Task

import assisters_otel

assisters_otel.init("greetings")
app = Celery("greetings", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))
client = openai.OpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ.get("ASSISTERS_API_KEY", "ask_missing"),
    max_retries=0,  # Celery retries
)


@app.task(bind=True, max_retries=3)  # type: ignore[untyped-decorator] # Celery has no types
def greet(task: Task, name: str) -> None:
    """Ask for a greeting, again where that helps, and not before the API wants it."""
    try:
        answer = client.chat.completions.create(
            model="assisters-chat-v1", messages=[{"role": "user", "content": f"Greet {name}."}]
        )
    except openai.OpenAIError as error:
        told = assisters_otel.explain(error)
        if told.retryable:
            raise task.retry(exc=error, countdown=told.retry_after_s or 1) from error
        raise
    print(answer.choices[0].message.content)
