"""CUT: contrastive unpaired translation."""

from __future__ import annotations

from medtrace.methods.common.contrastive import ContrastiveMethod


class CUTMethod(ContrastiveMethod):
    """CUT: contrastive unpaired translation.

    Terms and arguments are those of `ContrastiveMethod`.
    """

    name = "cut"
    title = "CUT"
    paper = "Park et al., Contrastive Learning for Unpaired Image-to-Image Translation (2020)"
