"""Noise-contrastive estimation between features of the same places (PatchNCE, Park et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_positive, check_same_shape


def patch_nce(queries: Tensor, keys: Tensor, temperature: float = 0.07) -> Tensor:
    """How well each query is told apart as its own key's, among the keys of other places of the same image.

    −log exp(q_i · k_i / T) / Σ_j exp(q_i · k_j / T), averaged over positions i and images (CUT, Eq. 2 and 3). No
    gradient reaches the keys.

    Args:
        queries: (B, P, C), features at P positions of a translation, of length 1.
        keys: (B, P, C), at the same positions of its source.
        temperature: T, above 0.

    Returns:
        A scalar >= 0, float32 also under autocast; log P where all keys are identical.

    Raises:
        TypeError, ValueError: if the shapes differ or the temperature is not above 0.

    Example:
        >>> same = torch.ones(1, 4, 2) / 2**0.5
        >>> round(float(patch_nce(same, same)), 4)  # log 4
        1.3863
        >>> apart = torch.eye(2)[None]
        >>> round(float(patch_nce(apart, apart, temperature=1.0)), 4)  # log(1 + 1 / e)
        0.3133
    """
    check_same_shape("queries", queries, "keys", keys)
    if queries.ndim != 3:
        raise ValueError(f"queries: expected (B, P, C), received shape {tuple(queries.shape)}")
    check_positive("temperature", temperature)
    with torch.autocast(queries.device.type, enabled=False):
        alike = queries.float() @ keys.detach().float().transpose(1, 2) / temperature
    own = torch.arange(queries.shape[1], device=queries.device).expand(len(queries), -1)
    return F.cross_entropy(alike.flatten(0, 1), own.flatten())
