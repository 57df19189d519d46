"""Peers' own code agrees with ours where it is right, and differs where it is known to be wrong (values: tests/peers)."""

import json
from pathlib import Path

import numpy as np
import pytest

from peers.values import PASS, clusters
from thinkscale.estimators import pass_at_k
from thinkscale.inference import clustered_se

VALUES = json.loads((Path(__file__).parent / "peers" / "values.json").read_text())
MINE = pass_at_k(*np.array(PASS).T)
DEFINED = np.array([k <= n for n, _, k in PASS])


def test_pass_at_k_is_inspect_ai_s_also_where_undefined() -> None:
    theirs = np.array(VALUES["inspect-ai"]["pass@k"], dtype=float)
    assert pytest.approx(theirs, abs=1e-12, nan_ok=True) == MINE
    assert np.isnan(theirs[~DEFINED]).all() and (~DEFINED).any()


def test_pass_at_k_is_lighteval_s_where_it_is_defined_and_never_its_one_elsewhere() -> None:
    theirs = np.array(VALUES["lighteval"]["pass@k"], dtype=float)
    assert MINE[DEFINED] == pytest.approx(theirs[DEFINED], abs=1e-12)
    assert (theirs[~DEFINED] == 1.0).all() and np.isnan(MINE[~DEFINED]).all()


@pytest.mark.parametrize("peer", ["inspect-ai", "statsmodels"])
def test_the_clustered_standard_error_is_the_peers(peer: str) -> None:
    values, cluster = clusters()
    assert clustered_se(np.array(values)[:, None], cluster)[0] == pytest.approx(VALUES[peer]["clustered_se"], rel=1e-10)
