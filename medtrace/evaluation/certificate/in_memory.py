"""Certify a trace in memory."""

from __future__ import annotations

from torch import Tensor

from medtrace.evaluation.certificate.checks import trace_checks
from medtrace.evaluation.certificate.probes import Translator, translator_checks, without_run
from medtrace.evaluation.certificate.record import Certificate
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.trace import Trace


def certify_trace(
    trace: Trace,
    *,
    case: str = "trace",
    thresholds: Thresholds | None = None,
    translator: Translator | None = None,
    reference: Tensor | None = None,
    target: Tensor | None = None,
) -> Certificate:
    """Certify a trace in memory, without provenance.

    Args:
        trace: any trace.
        case: its name.
        thresholds: limits and settings; None is the defaults.
        translator: the method, for reproduction and equivariance.
        reference: the independent displacement, if known (`checks.independent_field`).
        target: (C, *spatial), target of a registration, on the image's grid.
    """
    trace, limits = trace.to("cpu"), thresholds or Thresholds()
    checks = trace_checks(trace, limits, reference, target)
    checks += without_run() if translator is None else translator_checks(translator, trace, limits)
    return Certificate(case, tuple(checks))
