"""OpenTelemetry's variables: the rules for their values, and the corrections of wrong ones."""
