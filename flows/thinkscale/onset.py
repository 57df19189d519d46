"""Where a skill sets in along an axis, and how suddenly: sigmoid, hinge, compatible elasticities, linearity, PassUntil curve.

Why: "0, 0, 0, then 13 %" looks like a jump and may be a smooth power law seen through few samples; each number here says what the data
allow. All fits are grids with the linear part in closed form, so thousands of bootstrap draws (rows of `y`) are fitted at once and none
fails to converge.
What it does not do: decide whether a skill emerges (see `mirage`), or extrapolate: what lies beyond the axis is `inf`, before it `-inf`.

Sources: linearity and breakthroughness: Srivastava et al. 2022, arXiv:2206.04615. PassUntil: Hu et al. 2023, arXiv:2310.03262.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thinkscale.inference import Floats, Ints

SIGNAL = 0.05
"""Accuracy above chance from which a skill counts as there at all."""
CEILING = 0.95
"""Share of the best accuracy above chance from which on more of the axis has nothing left to show."""
HALF = 0.5
"""Share of it up to which a rise from chance is taken for a line."""
_LOGIT_90 = 4.394  # 10-90 % width of a logistic curve of unit slope
_BLOCK = 50  # rows at once: in the processor's cache, and too small for the linear algebra to start threads
_TIE = 1e-5  # squared error that does not count: of fits as good as each other the widest is taken


class Sigmoid(NamedTuple):
    """y = floor + (ceiling - floor) / (1 + exp(-(x - onset) * 4.394 / width)), one fit for each row of y."""

    onset: Floats
    """Half-way between floor and the curve's own ceiling; inf beyond the last x or where nothing is there, -inf before the first."""
    ceiling: Floats
    width: Floats
    """From 10 to 90 % of the rise, in units of x; at least a quarter of the closest two x."""


class Hinge(NamedTuple):
    """y = a + before * x + change * max(0, x - knot), one fit for each row of y."""

    knot: Floats
    before: Floats
    change: Floats
    line: Floats
    """Slope of the straight line through all."""
    sup_f: Floats
    """(RSS of the line - RSS of the hinge) / (RSS of the hinge / (points - 3)), the knot chosen to make it largest."""


def sigmoid(x: Floats, y: Floats, floor: float) -> Sigmoid:
    """Least squares with the floor held at chance and the ceiling at most 1.

    Args:
        x: places on the axis, as logarithms, rising.
        y: rows × places.
        floor: accuracy of guessing.
    """
    span, gap = x[-1] - x[0], np.diff(x).min()
    middles = np.linspace(x[0] - span / 4, x[-1] + span / 2, 141)
    widths = np.geomspace(2 * span, gap / 4, 20)  # widest first: what separates completely tells no width, and argmin takes the first
    middle, width = (a.ravel() for a in np.meshgrid(middles, widths))
    basis = 1 / (1 + np.exp(np.clip(-(x[:, None] - middle) * _LOGIT_90 / width, -50, 50)))
    best, height = _best(basis, y - floor, None, 1 - floor)
    onset = np.where(middle[best] > x[-1] + 1e-9, np.inf, np.where(middle[best] < x[0] - 1e-9, -np.inf, middle[best]))
    nothing = (y - floor).max(axis=1) <= SIGNAL
    return Sigmoid(np.where(nothing, np.inf, onset), floor + height, width[best])


def sigmoid_at(x: Floats, onset: float, width: float, ceiling: float, floor: float) -> Floats:
    """A fitted sigmoid's values; arguments as in `Sigmoid`, onset as a logarithm."""
    return np.asarray(floor + (ceiling - floor) / (1 + np.exp(-(x - onset) * _LOGIT_90 / width)))


def leaves_floor(x: Floats, y: Floats, floor: float) -> Floats:
    """Where a flat floor turns into a rising line: y = floor + slope * max(0, x - knot), of each row, up to half of its height.

    Places after the first that reaches `HALF` of the row's best are left out: a curve that levels off would pull the knot away. Where one
    place alone has risen, the knot may be anywhere after the place before it, and the earliest is given. -inf: it has left before the
    first x (and is more than `SIGNAL` above chance there); inf: never.
    """
    span = x[-1] - x[0]
    knots = np.linspace(x[0] - span / 2, x[-1] - span / 200, 151)  # earliest first
    best, _ = _best(np.maximum(0, x[:, None] - knots), y - floor, _rising(y, floor, HALF), np.inf)
    before = np.where(y[:, 0] - floor > SIGNAL, -np.inf, x[0])
    knot = np.where(knots[best] < x[0] - 1e-9, before, knots[best])
    return np.asarray(np.where((y - floor).max(axis=1) <= SIGNAL, np.inf, knot))


def _best(basis: Floats, above: Floats, used: Floats | None, most: float) -> tuple[Ints, Floats]:
    """For each row the column of `basis` (places × candidates) that fits best when scaled, and its scale in [0, most].

    Args:
        basis: candidates, the preferred first.
        above: rows × places.
        used: 1 where a row's place counts, else 0; None: all count.
        most: largest scale.
    """
    small = basis.astype(np.float32)  # an error of 1e-7 is far below `_TIE`, and these are the large arrays
    weighed = (above if used is None else above * used).astype(np.float32)
    squares = (small**2).sum(axis=0, keepdims=True) if used is None else used.astype(np.float32) @ small**2
    best, height = np.zeros(len(above), dtype=np.int64), np.zeros(len(above))
    for start in range(0, len(above), _BLOCK):
        rows = slice(start, start + _BLOCK)
        square = np.maximum(squares if used is None else squares[rows], 1e-9)
        product = weighed[rows] @ small
        scale = np.clip(product / square, 0, most)
        error = scale * square
        error -= 2 * product
        error *= scale
        best[rows] = np.argmax(error <= error.min(axis=1, keepdims=True) + _TIE, axis=1)
        height[rows] = scale[np.arange(len(scale)), best[rows]]
    return best, height


def _rising(y: Floats, floor: float, share: float) -> Floats:
    """1 up to and with the first place that reaches this share of the row's best, and for the first three places at least; then 0."""
    reached = y - floor >= share * (y - floor).max(axis=1, keepdims=True)
    first = np.argmax(reached, axis=1)
    return np.asarray(np.arange(y.shape[1]) <= np.maximum(first, 2)[:, None], dtype=np.float64)


def rising(y: Floats, floor: float, share: float = CEILING) -> int:
    """How many places of one curve there are up to the first that reaches this share of its best above chance; three at least."""
    return int(_rising(y[None, :], floor, share).sum())


def hinge(x: Floats, y: Floats) -> Hinge:
    """Continuous two-piece line by least squares, its knot anywhere between the second place and the last but one; needs three places."""
    knots = np.unique(np.concatenate([x[1:-1], np.linspace(x[1], x[-2], 21)]))
    ones = np.ones_like(x)
    line = np.column_stack([ones, x])
    line_fit = np.linalg.pinv(line) @ y.T
    line_rss = ((y.T - line @ line_fit) ** 2).sum(axis=0)
    fits, rss = [], []
    for knot in knots:
        design = np.column_stack([ones, x, np.maximum(0, x - knot)])
        fit = np.linalg.pinv(design) @ y.T
        fits.append(fit)
        rss.append(((y.T - design @ fit) ** 2).sum(axis=0))
    best, row = np.argmin(rss, axis=0), np.arange(len(y))
    chosen = np.array(fits)[best, :, row]
    left = np.array(rss)[best, row]
    free = len(x) - 3
    with np.errstate(divide="ignore", invalid="ignore"):
        sup_f = np.where(line_rss > 1e-18, (line_rss - left) / (np.maximum(left, 1e-18) / free), 0.0) if free > 0 else np.zeros(len(y))
    return Hinge(knots[best], chosen[:, 1], chosen[:, 2], line_fit[1], sup_f)


def compatible_elasticity(size: Floats, low: Floats, high: Floats) -> Floats:
    """Smallest slope of log accuracy against log size that the intervals of each two neighbours allow.

    ln(low of the larger / high of the smaller) / ln(their sizes' ratio). Below 2 a "jump" is no evidence against a power law; -inf where
    the larger may be at 0. Intervals may be of any kind: `inference.clopper_pearson` for plain counts.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(low[1:] / high[:-1]) / np.diff(np.log(size)))


class Steadiness(NamedTuple):
    """BIG-bench's two descriptions of a curve over size; description only, never the decision."""

    linearity: float
    """Net gain over the root mean square step."""
    breakthroughness: float
    """Net gain over the root median square step; inf where more than half of the steps are 0."""
    with_noise: float
    """Breakthroughness with the steps' noise in the denominator, so that it is finite and says less where scores are coarse."""


def steadiness(y: Floats, se: Floats) -> Steadiness:
    """Linearity and breakthroughness of scores in order of size; the sign says whether the best or the worst comes later.

    Args:
        y: scores.
        se: their standard errors; the noise floor of a step is sqrt(2) times their median.
    """
    net = float(np.sign(int(np.argmax(y)) - int(np.argmin(y))) * np.ptp(y))
    steps, noise = np.diff(y) ** 2, 2 * float(np.median(se)) ** 2
    parts = (steps.mean(), np.median(steps), np.median(steps) + noise)
    return Steadiness(*(0.0 if net == 0 else net / float(np.sqrt(p)) if p > 0 else float(np.sign(net) * np.inf) for p in parts))


def share_se(right: ArrayLike, trials: ArrayLike) -> Floats:
    """Standard error of a share, by its Jeffreys mean (right + 1/2) / (trials + 1): not 0 where none or all are right."""
    n = np.asarray(trials, dtype=np.float64) + 1
    p = (np.asarray(right, dtype=np.float64) + 0.5) / n
    return np.asarray(np.sqrt(p * (1 - p) / n))


def pass_until(p: Floats) -> Floats:
    """F = log(-log p): a straight line in log size where p = exp(-c N^-a). NaN at 0 and 1, which say nothing of where on the line."""
    inside = np.where((p > 0) & (p < 1), p, np.nan)
    return np.asarray(np.log(-np.log(inside)))


def curvature(x: Floats, p: Floats) -> Floats:
    """Second derivative of F over log size, of each row, by a parabola through the places where no row is at 0 or 1.

    Negative: F falls faster than a line (accelerated emergence); positive: the gain slows. NaN with fewer than four such places.
    """
    curve = pass_until(p)
    known = ~np.isnan(curve).any(axis=0)
    if known.sum() < 4:
        return np.full(len(p), np.nan)
    parabola = np.linalg.pinv(np.vander(x[known] - x[known].mean(), 3))
    return np.asarray(2 * curve[:, known] @ parabola[0])
