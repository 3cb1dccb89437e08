"""Certificates: whether to believe a trace, without ground truth."""

from medtrace.evaluation.certificate.in_memory import certify_trace
from medtrace.evaluation.certificate.record import Certificate, Check, Status
from medtrace.evaluation.certificate.thresholds import Limit, Thresholds

__all__ = ["Certificate", "Check", "Limit", "Status", "Thresholds", "certify_trace"]
