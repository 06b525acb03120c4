"""What OpenTelemetry's API leaves open: providers and spans that tell less than the SDK's."""
