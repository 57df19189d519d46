"""What other projects' own code says of small made cases; `values.json` beside this file is what it printed, test_peers.py compares.

Each peer runs in an environment of its own, never in ours. To make the values again, in a folder of your own:

    python3.11 -m venv inspect && inspect/bin/pip install inspect-ai==0.3.285 statsmodels==0.15.0
    python3.11 -m venv lighteval && lighteval/bin/pip install lighteval==0.13.0
    inspect/bin/python values.py inspect > a.json && lighteval/bin/python values.py lighteval > b.json
    python3 -c "import json; print(json.dumps({**json.load(open('a.json')), **json.load(open('b.json'))}, indent=1))" > values.json

Ours were made with lighteval installed without its dependencies, beside the packages of our locked CPU environment and the twenty
small ones that its metrics import.
"""

import json
import sys
from importlib.metadata import version

PASS = [(n, c, k) for n in (1, 4, 8, 25, 100) for c in sorted({0, 1, n // 3, n - 1, n}) for k in (1, 2, 4, 8, 64) if 0 <= c <= n]


def clusters() -> tuple[list[float], list[str]]:
    """Forty values in nine clusters of unlike size."""
    values = [((37 * i * i + 11 * i) % 101) / 101 for i in range(40)]
    return values, [f"passage-{(i * i) % 17}" for i in range(40)]


def of_inspect() -> dict[str, object]:
    """pass@k and clustered standard error of inspect-ai, and the latter of statsmodels."""
    import numpy as np
    import statsmodels.api as sm
    from inspect_ai.scorer import SampleScore, Score, pass_at, stderr

    passed = []
    for n, c, k in PASS:
        reduced = pass_at(k)([Score(value=1.0 if i < c else 0.0) for i in range(n)])
        passed.append(reduced.value[f"pass_at_{k}"] if isinstance(reduced.value, dict) else reduced.value)
    values, cluster = clusters()
    scores = [SampleScore(score=Score(value=v), sample_metadata={"cluster": c}) for v, c in zip(values, cluster, strict=True)]
    groups = np.unique(cluster, return_inverse=True)[1]
    fit = sm.OLS(np.array(values), np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    return {
        "inspect-ai": {
            "version": version("inspect-ai"),
            "pass@k": [None if np.isnan(p) else float(p) for p in passed],
            "clustered_se": float(stderr(cluster="cluster")(scores)),
        },
        "statsmodels": {"version": version("statsmodels"), "clustered_se": float(fit.bse[0])},
    }


def of_lighteval() -> dict[str, object]:
    """pass@k of lighteval: 1.0 where fewer samples are there than k."""
    from lighteval.metrics.metrics_sample import PassAtK

    def passed(n: int, c: int, k: int) -> float:
        return float(PassAtK(k=k, n=n, sample_scoring_function=lambda doc, response: 0).pass_at_k([1] * c + [0] * (n - c)))

    return {"lighteval": {"version": version("lighteval"), "pass@k": [passed(*case) for case in PASS]}}


if __name__ == "__main__":
    print(json.dumps({"inspect": of_inspect, "lighteval": of_lighteval}[sys.argv[1]]()))
