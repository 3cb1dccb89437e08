"""Certificates: whether to believe a trace, without ground truth."""

from medtrace.workflows.certify.command import certify, certify_trace
from medtrace.workflows.certify.record import Certificate, Check, Status
from medtrace.workflows.certify.thresholds import Limit, Thresholds

__all__ = ["Certificate", "Check", "Limit", "Status", "Thresholds", "certify", "certify_trace"]
