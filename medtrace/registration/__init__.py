"""Alignment and deformation of one image to another, and how far to trust it."""

from medtrace.registration.alignment import Alignment, align
from medtrace.registration.deformable import Deformable, Deformation, deform
from medtrace.registration.explanation import Line, explain
from medtrace.registration.plausibility import Plausibility
from medtrace.registration.presets import thorough, weak_likeness
from medtrace.registration.register import Registration, register_images
from medtrace.registration.verdict import Verdict

__all__ = [
    "Alignment",
    "Deformable",
    "Deformation",
    "Line",
    "Plausibility",
    "Registration",
    "Verdict",
    "align",
    "deform",
    "explain",
    "register_images",
    "thorough",
    "weak_likeness",
]
