"""Exact intervals of shares that are 0 or 1: all resamples are equal then, so the bootstrap gives no width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TAIL = 0.025
_EQUAL = 1e-12


def exact_interval(shares: Sequence[float], patients: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of the mean of shares, each of so many patients; None unless all are 0 or 1.

    For a single share this is Clopper and Pearson's (1934).
    """
    right = [n for share, n in zip(shares, patients, strict=True) if share >= 1 - _EQUAL]
    wrong = [n for share, n in zip(shares, patients, strict=True) if share <= _EQUAL]
    if not shares or len(right) + len(wrong) < len(shares):
        return None
    low = len(right) * least_share(right) if right else 0.0
    high = len(right) + (len(wrong) * (1 - least_share(wrong)) if wrong else 0.0)
    return low / len(shares), high / len(shares)


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
