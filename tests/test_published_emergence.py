"""Published numbers of emergence, from public data beside this clone: BIG-bench, IPA transliteration, LAMBADA over Pythia."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from thinkscale.inference import clopper_pearson
from thinkscale.onset import compatible_elasticity, hinge, leaves_floor, pass_until, share_se, steadiness

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BIGG, IPA, PYTHIA = (DATA / name for name in ("bigbench_bigg_lass", "obsscaling", "pythia_evals"))


def needs(folder: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not folder.exists(), reason=f"the public data are not beside this clone (shared/data/{folder.name})")


@pytest.fixture(scope="module")
def bigg() -> pd.DataFrame:
    return pd.read_csv(BIGG / "bigg_3shot_by_size.csv").sort_values(["task", "params_nominal"])


def described(rows: pd.DataFrame) -> tuple[float, float, float]:
    return steadiness(rows["accuracy"].to_numpy(), share_se(rows["n_correct"].to_numpy(), rows["n"].to_numpy()))


@needs(BIGG)
def test_linearity_and_breakthroughness_of_big_g_tasks(bigg: pd.DataFrame) -> None:
    found = pd.DataFrame({task: described(rows) for task, rows in bigg.groupby("task")}, index=["L", "B", "B noise"]).T
    top = {"mult_data_wrangling": 9.3, "unnatural_in_context_learning": 8.6, "qa_wikidata": 8.5, "abstract_narrative_understanding": 7.9}
    top |= {"linguistic_mappings": 7.9, "list_functions": 7.8, "date_understanding": 6.5}
    assert found["L"].loc[list(top)].round(1).to_dict() == top
    assert found["L"].nlargest(5).index.tolist() == list(top)[:5]
    assert len(found) == 85 and np.isinf(found["B"]).sum() == 7
    assert np.isinf(found["B"].loc[["word_unscrambling", "modified_arithmetic"]]).all()
    assert found["B"].loc["word_sorting"] == pytest.approx(49, abs=0.5)
    noisy = found["B noise"].loc[["word_unscrambling", "modified_arithmetic", "word_sorting"]]
    assert noisy.tolist() == pytest.approx([34, 27, 15.7], abs=0.5)


@needs(BIGG)
def test_modified_arithmetic_s_jump_is_compatible_with_a_power_law(bigg: pd.DataFrame) -> None:
    rows = bigg[bigg["task"] == "modified_arithmetic"]
    assert rows["n_correct"].tolist() == [0] * 11 + [27] and set(rows["n"]) == {204}
    ends = clopper_pearson(rows["n_correct"], rows["n"])
    slopes = compatible_elasticity(rows["params_nominal"].to_numpy(), ends.low, ends.high)
    assert (ends.high[-2], ends.low[-1]) == pytest.approx((0.0179, 0.0891), abs=1e-4)
    assert slopes[-1] == slopes.max() == pytest.approx(1.03, abs=0.005)


@needs(IPA)
def test_ipa_exact_match_kinks_where_bleu_already_rises() -> None:
    """The ready mirage pair: exact match leaves 0 only after BLEU, on the same outputs, has long begun to rise."""
    scores = pd.read_csv(IPA / "base_llm_emergent_capability_eval.csv")
    sizes = pd.read_csv(IPA / "base_llm_benchmark_eval.csv")[["Model", "FLOPs (1E21)"]]
    both = scores.merge(sizes, on="Model").dropna(subset=["FLOPs (1E21)", "ipa_transliterate_2_exact_match", "ipa_transliterate_2_bleu"])
    exact, bleu = both["ipa_transliterate_2_exact_match"], both["ipa_transliterate_2_bleu"] / 100
    none = both[exact < 0.005]
    assert len(none) >= 20
    rise = spearmanr(none["FLOPs (1E21)"], none["ipa_transliterate_2_bleu"])
    assert rise.statistic > 0.5 and rise.pvalue < 0.01
    order = np.argsort(both["FLOPs (1E21)"].to_numpy())
    x = np.log10(both["FLOPs (1E21)"].to_numpy()[order])
    places, of = np.unique(np.digitize(x, np.linspace(x[0], x[-1], 9)[1:-1]), return_inverse=True)
    middle = np.array([x[of == i].mean() for i in range(len(places))])
    curves = np.array([[values.to_numpy()[order][of == i].mean() for i in range(len(places))] for values in (exact, bleu)])
    exact_leaves, bleu_leaves = leaves_floor(middle, curves, 0.0)
    assert bleu_leaves < exact_leaves - 0.15  # at a third less training FLOPs and earlier


@needs(PYTHIA)
def test_lambada_accuracy_rises_as_perplexity_falls_by_a_smooth_law_over_pythia() -> None:
    evals = pd.read_csv(PYTHIA / "pythia_v1_evals_tidy.csv.gz")
    named = evals["model"].str.extract(r"^pythia-([\d.]+)([mb])(?:-bf16)?$")  # neither deduplicated data nor other batch sizes
    evals = evals.assign(size=named[0].astype(float) * named[1].map({"m": 1e6, "b": 1e9}))
    rows = evals[(evals["task"] == "lambada_openai") & (evals["shots"] == 0) & (evals["step"] == 143000) & evals["size"].notna()]
    wide = rows.pivot_table(index="size", columns="metric", values="value").sort_index()
    x, acc, ppl = np.log10(wide.index.to_numpy()), wide["acc"].to_numpy(), wide["ppl"].to_numpy()
    assert len(x) == 8 and (acc[0], ppl[0], acc[-1], ppl[-1]) == pytest.approx((0.185, 142.4, 0.705, 3.92), rel=0.01)
    assert spearmanr(acc, ppl).statistic == -1
    # One link for all sizes: accuracy is about exp(-0.3 * loss a word).
    link = -np.log(acc) / np.log(ppl)
    assert link.min() > 0.25 and link.max() < 0.36
    for level in (np.log(np.log(ppl)), pass_until(acc)):
        assert np.corrcoef(x, level)[0, 1] < -0.95
    # No bend upwards either: by the rule's own measure the slope of accuracy nowhere grows to three times what it was.
    bend = hinge(x, acc[None, :])
    assert bend.before[0] + bend.change[0] < 3 * bend.before[0]
