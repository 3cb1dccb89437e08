"""`python -m medtrace` is the command `medtrace`."""

from medtrace.cli import main

main()
