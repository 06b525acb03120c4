"""Providers from OpenTelemetry's variables: fork-safe, one warning, ended in time.

`build.build_providers` is the way in, and `owned_providers.OwnedProviders` what it returns. In the
order of what happens:

1. Settings: `signals`, `entry_points`, `otlp_settings`, `exporter_specs`.
2. Making: `build`, `pipelines`, `exporters`.
3. An export: `exporters`, then over HTTP `otlp_http` and `otlp_responses`, over gRPC `otlp_grpc`.
4. Its failure: `failures`, `delivery`, `exporter_logs`, `tls_files`.
5. Flush, end and fork: `owned_providers`, `workers`.
"""
