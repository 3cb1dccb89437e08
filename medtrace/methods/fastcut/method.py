"""FastCUT: contrastive unpaired translation without the identity term."""

from __future__ import annotations

from medtrace.methods.common.contrastive import ContrastiveMethod
from medtrace.methods.fastcut.settings import FastCUTSettings


class FastCUTMethod(ContrastiveMethod):
    """FastCUT: contrastive unpaired translation without the identity term, but with mirrored batches.

    Terms and arguments are those of `ContrastiveMethod`.
    """

    name = "fastcut"
    title = "FastCUT"
    paper = "Park et al., Contrastive Learning for Unpaired Image-to-Image Translation (2020), its fast variant"
    settings_type = FastCUTSettings
