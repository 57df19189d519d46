"""When drawing for a problem may stop: its vote is settled (Adaptive-Consistency: Aggarwal et al. 2023, arXiv:2305.11860).

Why: a problem on which the samples agree needs few of them. v of the samples voted for the leading answer and w for the second: the vote is
settled when P(the first is the more probable of the two), with a uniform prior, is at least the confidence: P(Beta(v + 1, w + 1) > 1/2).
Looked at after every so many samples, in the order of their index, so that what is wanted follows from what is on disk alone.
What it does not do: estimate anything from what was drawn so (see `adaptive`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc

from thinkscale.config import Stop
from thinkscale.inference import Floats


def settled(first: ArrayLike, second: ArrayLike) -> Floats:
    """P(the leading answer is the more probable of the first two) after so many votes for each, with a uniform prior."""
    return np.asarray(betainc(np.asarray(second) + 1.0, np.asarray(first) + 1.0, 0.5), dtype=np.float64)


def is_settled(answer_class: Sequence[str | None], confidence: float) -> bool:
    """Is the vote of these samples settled? None abstains."""
    votes = [count for _, count in Counter(c for c in answer_class if c is not None).most_common(2)]
    return bool(settled(*[*votes, 0, 0][:2]) >= confidence)


def samples_wanted(answer_class: Mapping[int, str | None], stop: Stop, most: int) -> int:
    """How many samples of a problem are wanted, the first so many by index.

    Args:
        answer_class: of the graded samples, by sample index; None: no answer was found.
        stop: when to stop.
        most: the number after which drawing ends in any case.
    """
    for number in range(stop.every, most, stop.every):
        if any(index not in answer_class for index in range(number)):
            return number
        if is_settled([answer_class[index] for index in range(number)], stop.confidence):
            return number
    return most
