"""Providers from OpenTelemetry's variables: fork-safe, one warning, ended in time."""
