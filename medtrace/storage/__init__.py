"""The only place that writes: atomic files and folders, their places, locks, finished cases."""

from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write

__all__ = ["atomic_directory", "atomic_write"]
