"""A function that OpenTelemetry's instrumentation wraps, as its documentation has it."""

from __future__ import annotations

from lambda_handlers import handler  # noqa: F401 - it is wrapped here
from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor

AwsLambdaInstrumentor().instrument()
