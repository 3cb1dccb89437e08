"""MetaRegNet."""

from medtrace.methods.metaregnet.method import MetaRegNetMethod as METHOD

__all__ = ["METHOD"]
