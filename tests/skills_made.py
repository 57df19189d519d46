"""Skills over size with a known law: smooth, mirage, emergent. For the operating characteristics of the rule in `mirage`.

Why: how often the rule is wrong can only be known where the truth is.
What it does not do: imitate any real model.
"""

from dataclasses import dataclass

import numpy as np

from thinkscale.inference import resample
from thinkscale.mirage import Evidence, Granular, evidence


@dataclass(frozen=True)
class Law:
    """Loss per token: `start` at the smallest size, falling by `slope` per decade (in e-folds) up to `knot`, then by `steep`."""

    tokens: int = 1
    start: float = 2.0
    slope: float = 1.0
    knot: float = np.inf
    steep: float = 0.0
    decades: float = 2.0
    sizes: int = 7
    noise: float = 0.15
    """Scatter from model to model, as a share of the loss."""
    problems: int = 200
    samples: int = 8

    def answers(self, seed: int, metric: str) -> tuple[np.ndarray, np.ndarray, Granular]:
        """Log10 sizes, accuracy (problems × sizes), and a granular metric of the same answers."""
        rng = np.random.default_rng([seed, 5])
        x = np.linspace(0, self.decades, self.sizes)
        fall = self.slope * np.minimum(x, self.knot) + self.steep * np.maximum(0, x - self.knot)
        loss = self.start * np.exp(-fall + self.noise * rng.standard_normal(self.sizes))
        hard = np.exp(0.4 * rng.standard_normal(self.problems) - 0.08)
        per_problem = loss[None, :] * hard[:, None]
        # Tokens are right independently; an answer is right where all of them are.
        right = rng.random((self.problems, self.sizes, self.samples, self.tokens)) < np.exp(-per_problem)[:, :, None, None]
        accuracy = right.all(axis=3).mean(axis=2)
        if metric == "partial":
            return x, accuracy, Granular("partial", right.mean(axis=(2, 3)), closeness=True)
        seen = per_problem * np.exp(0.1 * rng.standard_normal(per_problem.shape))
        return x, accuracy, Granular("gold_logprob", seen)

    def weighed(self, seed: int, metric: str, draws: int = 500) -> Evidence:
        """The rule's evidence on one such skill."""
        x, accuracy, granular = self.answers(seed, metric)
        sample = resample([str(i) for i in range(self.problems)], draws, seed)
        return evidence(4 + x, accuracy, 0.0, sample, granular)


LAWS = {
    "smooth, one token": Law(tokens=1, start=2.0, slope=0.9),
    "smooth, two tokens": Law(tokens=2, start=1.2, slope=0.8),
    "mirage, 5 tokens": Law(tokens=5, start=2.0, slope=1.5),
    "mirage, 10 tokens": Law(tokens=10, start=1.2, slope=1.5),
    "mirage, 20 tokens, 3 decades": Law(tokens=20, start=1.5, slope=1.3, decades=3.0),
    "emergent, middle": Law(tokens=5, start=1.5, slope=0.1, knot=1.0, steep=3.0),
    "emergent, early": Law(tokens=3, start=1.5, slope=0.1, knot=0.67, steep=2.0),
    "emergent, 3 decades": Law(tokens=5, start=1.5, slope=0.1, knot=1.5, steep=2.0, decades=3.0),
    "emergent at the last size": Law(tokens=5, start=1.5, slope=0.1, knot=1.67, steep=9.0),
    "mild bend": Law(tokens=5, start=1.5, slope=0.7, knot=1.0, steep=1.8),
}
