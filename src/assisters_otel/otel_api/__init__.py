"""Providers and spans that are not the SDK's, and have only what OpenTelemetry's API promises."""
