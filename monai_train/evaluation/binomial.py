"""The exact interval of a share where all or none are right: all resamples are equal then, and leave no width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TAIL = 0.025


def least_share(patients: Sequence[int]) -> float:
    """The lower bound of a 95 % interval where all patients are right; 1 minus it is the upper where none is.

    Of one number of patients this is Clopper and Pearson's (1934), 0.025^(1/n). Of several, it bounds the mean of their
    shares (balanced accuracy): the least mean of probabilities p_k at which all n_k are right in 2.5 % of trials. The
    product of p_k^n_k is greatest for p_k = min(1, n_k / c), so that the fewest patients decide.
    """
    n = np.sort(np.array(patients, np.float64))
    for unsure in range(1, len(n) + 1):  # how many p_k are below 1
        own = n[:unsure]
        c = np.exp((own @ np.log(own) - np.log(_TAIL)) / own.sum())
        if unsure == len(n) or c <= n[unsure]:
            break
    return float(np.minimum(1, n / c).mean())
