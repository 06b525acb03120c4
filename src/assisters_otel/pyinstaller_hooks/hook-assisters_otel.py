"""The modules and files that `init` needs in a bundle. PyInstaller runs this file.

PyInstaller follows the imports of an app. It does not find:

* what a name in a variable stands for, which OpenTelemetry looks up among the entry points;
* the entry points themselves and the versions, which stand in the metadata of a distribution;
* the schema that a file in ``OTEL_CONFIG_FILE`` is compared with;
* the modules of this library, which are imported when they are first used.

Some of it PyInstaller's own collection of hooks brings too. This file does not rely on that.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from PyInstaller.utils.hooks import (
    collect_data_files,
    collect_entry_point,
    collect_submodules,
    copy_metadata,
)

GROUPS = (
    "opentelemetry_context",
    "opentelemetry_environment_variables",
    "opentelemetry_id_generator",
    "opentelemetry_metrics_exporter",
    "opentelemetry_propagator",
    "opentelemetry_resource_detector",
    "opentelemetry_traces_exporter",
    "opentelemetry_traces_sampler",
    "_opentelemetry_meter_configurator",
    "_opentelemetry_tracer_configurator",
)
"""The groups of entry points in which `init` and the SDK look up a name."""

OPTIONAL = (
    *("opentelemetry-configuration", "opentelemetry-exporter-otlp-proto-grpc"),
    *("aiohttp", "assisters", "httpx", "httpx2", "openai", "requests"),
)
"""Distributions whose metadata is read where they are installed: extras, and the clients."""

NOT_IN_AN_APP = ("cli", "testing", "pyinstaller_hooks", "__main__")


def is_installed(name: str) -> bool:
    """Return True if a distribution is installed where the bundle is built."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def is_of_app(module: str) -> bool:
    """Return True if a module of this library belongs into a bundle. The commands do not."""
    return module.split(".")[1:2] not in [[name] for name in NOT_IN_AN_APP]


hiddenimports = ["idna", *collect_submodules("assisters_otel", filter=is_of_app)]
datas = copy_metadata("assisters-otel", recursive=True)
for found in filter(is_installed, OPTIONAL):
    datas += copy_metadata(found)
for group in GROUPS:
    files, modules = collect_entry_point(group)
    datas += files
    hiddenimports += modules
if is_installed("opentelemetry-configuration"):
    datas += collect_data_files("opentelemetry.configuration")
