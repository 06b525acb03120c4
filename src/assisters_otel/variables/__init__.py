"""OpenTelemetry's variables: which values are wrong, and what is read in their place."""
