"""The command `doctor`: one module for each place where telemetry can get lost."""
