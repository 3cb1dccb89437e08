"""The command `medtrace`: parses and delegates to `medtrace.workflows`.

Nothing heavy is imported before a command runs, so that `medtrace --help` responds at once.
"""

# Importing a module registers its commands; `medtrace --help` lists them in this order.
# isort: off
from medtrace.cli import learning, traces, registration, transforms, exchange, slicer, models, machine  # noqa: F401
# isort: on

from medtrace.cli.app import app, main
from medtrace.cli.errors import describe
from medtrace.cli.overrides import parse_settings

__all__ = ["app", "describe", "main", "parse_settings"]
