"""Exact intervals of shares where the bootstrap is degenerate: all resamples are equal, or many are 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import beta

_TAIL = 0.025
_EQUAL = 1e-12


def exact_interval(shares: Sequence[float], patients: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of the mean of shares, each of so many patients; None for several unless all are 0 or 1.

    For a single share this is Clopper and Pearson's (1934), also where it is no whole number of patients.
    """
    if len(shares) == 1 and patients[0] > 0:
        return counted_interval(shares[0], patients[0])
    right = [n for share, n in zip(shares, patients, strict=True) if share >= 1 - _EQUAL]
    wrong = [n for share, n in zip(shares, patients, strict=True) if share <= _EQUAL]
    if not shares or len(right) + len(wrong) < len(shares):
        return None
    low = len(right) * least_share(right) if right else 0.0
    high = len(right) + (len(wrong) * (1 - least_share(wrong)) if wrong else 0.0)
    return low / len(shares), high / len(shares)


def counted_interval(share: float, patients: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share of so many patients."""
    right, wrong = share * patients, (1 - share) * patients
    low = 0.0 if share <= _EQUAL else float(beta.ppf(_TAIL, right, wrong + 1))
    high = 1.0 if share >= 1 - _EQUAL else float(beta.ppf(1 - _TAIL, right + 1, wrong))
    return low, high


def is_degenerate(low: float, high: float) -> bool:
    """Whether the bootstrap interval of a share says less than it seems: without width, or up to 0 or 1."""
    return low >= high or low <= _EQUAL or high >= 1 - _EQUAL


def least_share(patients: Sequence[int]) -> float:
    """The least mean of probabilities p_k at which all n_k patients of every group are right in 2.5 % of trials.

    For a single group it is 0.025^(1/n). For several, the product of p_k^n_k at a given mean is greatest where
    p_k = min(1, n_k / c), so the smallest groups decide.
    """
    n = np.sort(np.array(patients, np.float64))
    for unsure in range(1, len(n) + 1):  # how many p_k are below 1
        own = n[:unsure]
        c = np.exp((own @ np.log(own) - np.log(_TAIL)) / own.sum())
        if unsure == len(n) or c <= n[unsure]:
            break
    return float(np.minimum(1, n / c).mean())
