"""The hot operations, each in a compiled CPU version and a plain torch version that agree."""

from medtrace.kernels.choice import current, paths, use

__all__ = ["current", "paths", "use"]
