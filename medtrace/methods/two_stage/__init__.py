"""A registration and a translation, trained apart."""

from medtrace.methods.two_stage.method import TwoStageMethod as METHOD

__all__ = ["METHOD"]
