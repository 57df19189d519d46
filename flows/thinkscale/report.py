"""From a results folder to tables, plots and findings.

Why: one place that says in which order things are computed and which rows of a folder belong to an experiment.
What it does not do: compute anything itself, or print (see `printed`).
"""

import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from upath import UPath

from thinkscale import scores
from thinkscale.adaptive import adaptive, stopped
from thinkscale.advice import beyond_samples, cheapest_ways, how_to_split, worth_buying
from thinkscale.axes import AXES, known_axes, priced
from thinkscale.boards import Board, boards
from thinkscale.calibration import calibration, confident_before_onset
from thinkscale.compare import claims, compare, headline
from thinkscale.compliance import compliance, unasked
from thinkscale.coverage import coverage
from thinkscale.curves import About, skill_curves
from thinkscale.emergence import emergence, findings
from thinkscale.emergence_plots import emergence_over_size
from thinkscale.exchange import overall_rate
from thinkscale.files import listed, put, remove
from thinkscale.findings import Finding, claimed, page, routes, saving, turned, won
from thinkscale.foresight import foresee
from thinkscale.graded import incomplete, read_graded
from thinkscale.grades import graded_by
from thinkscale.loss import measured
from thinkscale.mend import mend
from thinkscale.outlook import plan
from thinkscale.plan import RESULTS, Study
from thinkscale.plots import accuracy_vs_flops, accuracy_vs_size, forecasts
from thinkscale.purchase import purchases
from thinkscale.regions import frontier_membership, win_regions
from thinkscale.schema import COMPUTED, TABLES, TableName
from thinkscale.split import splits
from thinkscale.store import StoreError
from thinkscale.summarize import deployable, summarize, typed
from thinkscale.targets import targets
from thinkscale.thresholds import thresholds

log = logging.getLogger(__name__)

ROUTES, CLAIMED = "Which route bought accuracy?", "What was claimed beforehand?"
ON_CPU = "Engines ran on a CPU: what is called GPU-seconds, and dollars made of them, are seconds of that CPU and say nothing of a GPU."
PUBLISHED_DRAWS = 2000


@dataclass(frozen=True)
class Analysis:
    """What an analysis wrote and what it prints."""

    files: tuple[UPath, ...]
    headline: pd.DataFrame
    rates: pd.DataFrame
    """What a doubling of parameters is worth (`exchange.overall_rate`)."""
    claims: pd.DataFrame
    compliance: pd.DataFrame
    """Thinking asked for and spent (`compliance.compliance`)."""
    findings: dict[str, tuple[Finding, ...]]
    """Question -> what the tables say to it, in sentences."""
    owed: int
    to_score: int
    engines: tuple[str, ...]
    quarantined: tuple[UPath, ...]
    unscored: int = 0
    """Answers on disk that the scorer has not read."""


def analyze(study: Study, *, mixed: bool = False) -> Analysis:
    """Summarize, compare, check the claims, look for emergence, forecast and plot; writes tables, plots and findings.

    Args: mixed: take answers of several engines or graders together.
    Raises: StoreError where nothing is on disk, parts contradict each other, or engines or graders are mixed unasked.
    """
    mend(study, study.config.models)
    graded = planned_rows(study, read_graded(study.store.root, scores.identity(study)))
    if graded.empty:
        raise StoreError(f"{study.store.root}: no graded answers of this experiment. Run: python flows/sweep.py {study.config.name}")
    if not mixed:
        check_unmixed(graded, study)
    if study.config.stop is not None:
        return analyze_stopped(study, graded)
    seed = study.config.engine.seed
    log.info("summarizing %s graded answers", f"{len(graded):,}")
    shapes = {name: study.catalogue.models[name].shape for name in study.config.models}
    summary = summarize(graded, shapes, {name: b.chance for name, b in study.known.items()}, PUBLISHED_DRAWS, seed)
    log.info("comparing %s points", f"{len(summary):,}")
    comparison = compare(graded, summary, PUBLISHED_DRAWS, seed)
    checked = claims(graded, study.config.claims, PUBLISHED_DRAWS, seed, summary)
    spent = compliance(graded)
    losses = measured(study)
    bits = bits_per_byte(study, losses)
    gpu = None if study.config.gpu is None else study.catalogue.gpus[study.config.gpu]
    prices = priced(summary, graded, gpu, study.store.read("engine").to_pandas(), study.config.dollars_per_gpu_hour)
    all_points = boards(graded, deployable(prices), PUBLISHED_DRAWS, seed)
    concluded = (
        who_wins(all_points, graded, summary, seed),
        *what_to_do(study, all_points, bits),
        what_emerges(study, graded, summary, bits),
        what_was_foreseen(study, graded, bits, measured=len(losses) > 0),
        what_more_samples_find(graded, seed),
    )
    best = headline(graded, prices, PUBLISHED_DRAWS, seed, known_axes(prices) or ["flops"])
    root = study.store.root
    files: tuple[UPath, ...] = (
        accuracy_vs_flops(summary, root / "plots" / "accuracy-vs-flops.png", study.config.asks),
        accuracy_vs_size(summary, root / "plots" / "accuracy-vs-size.png", study.config.asks),
        study.store.write_table("summary", summary),
        study.store.write_table("compliance", spent),
        study.store.write_table("comparison", comparison),
        study.store.write_table("headline", best),
        study.store.write_table("claims", checked),
        *(figure for part in concluded for figure in part.figures),
        *(study.store.write_table(name, table) for part in concluded for name, table in part.tables.items()),
        study.store.write_table("engine", study.store.read("engine").to_pandas().sort_values(["time", "engine_start"])),
    )
    if len(losses):
        files += (study.store.write_table("loss", losses),)
    rates = overall_rate(graded, summary[summary["slice"] == "all"], PUBLISHED_DRAWS, seed)  # what is printed
    missed = unasked(spent)
    said = {"What was never asked?": tuple(missed)} if missed else {}
    if "cost_seconds" in prices and graded["engine"].astype(str).str.contains(r"\bcpu\b").any():
        said["What are seconds and dollars here?"] = (Finding(ON_CPU, math.nan, math.nan, math.nan, "engine", {}),)
    said |= {ROUTES: tuple(routes(best) + turned(best)), CLAIMED: tuple(claimed(checked))}
    said |= {part.question: part.findings for part in concluded}
    files += (write_findings(study, said),)
    return Analysis(files, best, rates, checked, spent, said, *left(study, graded))


def analyze_stopped(study: Study, graded: pd.DataFrame) -> Analysis:
    """Of an experiment whose drawing stops early: the table `adaptive` and its findings, and nothing else.

    Tables and plots of a time when all samples were drawn are removed: they answer another question, and can be made again.
    """
    stop, config, root = study.config.stop, study.config, study.store.root
    assert stop is not None
    for name in sorted({*COMPUTED} - {"adaptive"}):
        remove(root / f"{name}.parquet")
    for path in listed(root / "plots"):
        remove(path)
    shapes = {name: study.catalogue.models[name].shape for name in config.models}
    planned = {name: study.planned_problems(name) for name in config.benchmarks}
    table = stopped(graded, shapes, stop, config.num_samples, planned, PUBLISHED_DRAWS, config.engine.seed)
    said = {"What did stopping early save?": tuple(saving(table, graded))}
    files = (study.store.write_table("adaptive", table), write_findings(study, said))
    nothing = [typed(pd.DataFrame(columns=TABLES[name].names), TABLES[name]) for name in ("headline", "claims", "compliance")]
    return Analysis(files, nothing[0], pd.DataFrame(), nothing[1], nothing[2], said, *left(study, graded))


def write_findings(study: Study, said: Mapping[str, tuple[Finding, ...]]) -> UPath:
    """The page `findings.md`."""
    written = study.store.root / "findings.md"
    put(written, page(study.config.name, study.config.asks, said).encode())
    return written


class Left(NamedTuple):
    """What an analysis is silent about: the last fields of `Analysis`."""

    owed: int
    to_score: int
    engines: tuple[str, ...]
    quarantined: tuple[UPath, ...]
    unscored: int


def left(study: Study, graded: pd.DataFrame) -> Left:
    """What is owed, by which engines the answers are, and what was set aside."""
    rows, engines = plan(study), tuple(sorted(graded["engine"].astype(str).unique()))
    owed, to_score = sum(r.planned - r.on_disk for r in rows), sum(r.to_score for r in rows)
    return Left(owed, to_score, engines, tuple(study.store.quarantined()), scores.unscored(study))


class Concluded(NamedTuple):
    """One part of the conclusions: tables by name, figures that were drawn, findings."""

    question: str
    tables: dict[TableName, pd.DataFrame]
    figures: tuple[UPath, ...]
    findings: tuple[Finding, ...]


def bits_per_byte(study: Study, losses: pd.DataFrame) -> dict[str, float | None]:
    """Of each model of the catalogue: as measured where any was, since losses on different texts are no points of one law; else as it says.

    Args: losses: from `loss.measured`.
    """
    found = dict(zip(losses["model"], losses["bits_per_byte"], strict=True))
    return {m.name: found.get(m.name) if found else m.bits_per_byte for m in study.catalogue.models.values()}


def who_wins(all_points: list[Board], graded: pd.DataFrame, summary: pd.DataFrame, seed: int) -> Concluded:
    """Tables `regions` and `membership`, and sentences."""
    log.info("looking where smaller models win")
    regions = win_regions(all_points, seed=seed, axes=[a for a in AXES if all(f"cost_{a}" in board.points for board in all_points)])
    membership = frontier_membership(graded, summary, PUBLISHED_DRAWS, seed)
    return Concluded("Who wins at which compute?", {"regions": regions, "membership": membership}, (), tuple(won(regions)))


def what_to_do(study: Study, all_points: list[Board], bits: Mapping[str, float | None]) -> tuple[Concluded, ...]:
    """Tables `purchase`, `targets` and `split`, and sentences."""
    log.info("looking for what to buy, and for the cheapest ways to targets")
    seed = study.config.engine.seed
    bought, reached, shared = purchases(all_points, known_about(study, bits)), targets(all_points, seed=seed), splits(all_points, seed=seed)
    return (
        Concluded("What should I buy next?", {"purchase": bought}, (), tuple(worth_buying(bought))),
        Concluded("What does a target cost?", {"targets": reached}, (), tuple(cheapest_ways(reached))),
        Concluded("One long thought or several short ones?", {"split": shared}, (), tuple(how_to_split(shared))),
    )


def what_more_samples_find(graded: pd.DataFrame, seed: int) -> Concluded:
    """The table `coverage`, and sentences."""
    log.info("forecasting what more samples would find")
    table = coverage(graded, PUBLISHED_DRAWS, seed)
    return Concluded("What would more samples find?", {"coverage": table}, (), tuple(beyond_samples(table)))


def known_about(study: Study, bits: Mapping[str, float | None]) -> dict[str, About]:
    """What the catalogue says of each of the experiment's models."""
    models = study.catalogue.models
    return {name: About(models[name].family, models[name].training_tokens, bits[name]) for name in study.config.models}


def what_emerges(study: Study, graded: pd.DataFrame, summary: pd.DataFrame, bits: Mapping[str, float | None]) -> Concluded:
    """Tables `emergence`, `thresholds`, `calibration`, `adaptive`, the figure over size, sentences; writes the figure alone."""
    seed = study.config.engine.seed
    curves = skill_curves(graded, summary, {name: b.chance for name, b in study.known.items()}, known_about(study, bits), seed)
    log.info("looking for emergence on %s curves", f"{len(curves):,}")
    emerged = emergence(curves, PUBLISHED_DRAWS, seed)
    figure = emergence_over_size(emerged, curves, study.store.root / "plots" / "emergence-over-size.png", "What emerges where over size?")
    tables: dict[TableName, pd.DataFrame] = {"emergence": emerged, "thresholds": thresholds(curves, PUBLISHED_DRAWS, seed)}
    tables["calibration"] = calibration(graded, PUBLISHED_DRAWS, seed)
    shapes = {name: study.catalogue.models[name].shape for name in study.config.models}
    tables["adaptive"] = adaptive(graded, shapes, draws=PUBLISHED_DRAWS, seed=seed)
    return Concluded(
        "What emerges where over size?",
        tables,
        () if figure is None else (figure,),
        tuple(findings(emerged, curves) + confident_before_onset(tables["calibration"], emerged)),
    )


def what_was_foreseen(study: Study, graded: pd.DataFrame, bits: Mapping[str, float | None], *, measured: bool) -> Concluded:
    """Tables `scaling` and `forecast`, the figure of forecasts, sentences; writes the figure alone.

    Points of the loss's law are all models of the families in the experiment whose loss is known.

    Args: measured: the losses are this experiment's; else those that the catalogue has, of models that it may not ask.
    """
    known = study.catalogue.models
    ours = {known[name].family for name in study.config.models}
    about = {m.name: (m.family, m.params, m.training_tokens, bits[m.name]) for m in known.values() if m.family in ours}
    models = pd.DataFrame.from_dict(about, orient="index", columns=["family", "params", "training_tokens", "bits_per_byte"])
    models = models.astype({"training_tokens": float, "bits_per_byte": float})
    log.info("forecasting the largest size from the smaller ones")
    seen = foresee(graded, {name: b.chance for name, b in study.known.items()}, models, PUBLISHED_DRAWS, study.config.engine.seed)
    figures = forecasts(
        seen.forecast, study.store.root / "plots" / "forecast.png", "What would the smaller sizes have told of the largest?"
    )
    tables: dict[TableName, pd.DataFrame] = {"scaling": seen.scaling, "forecast": seen.forecast}
    source = "" if measured else " The losses are those of models.yaml; `loss:` measures them."
    said = (f._replace(text=f.text + source) if f.table == "scaling" else f for f in seen.findings)
    return Concluded("What would the smaller sizes have told?", tables, tuple(figures), tuple(said))


def check_unmixed(graded: pd.DataFrame, study: Study) -> None:
    """Raise StoreError where a benchmark was graded by several graders or by another than today's, or answers are of several engines."""
    where = study.store.root.parent
    words = ["python", "flows/regrade.py", study.config.name, *(["--results", str(where)] if str(where) != str(RESULTS) else [])]
    again = f"Grade all again, without an engine: {shlex.join(words)}"
    for benchmark, rows in graded.groupby("benchmark", observed=True):
        graders = sorted(rows["grader_version"].astype(str).unique())
        if len(graders) > 1:
            raise StoreError(f"{benchmark}: graded by {', '.join(graders)}. {again}")
        now = graded_by(study.known[str(benchmark)])
        if graders != [now]:
            raise StoreError(f"{benchmark}: graded by {graders[0]}, which is {now} by now. {again}")
    counted = pd.concat([graded["engine"].astype(str), graded["forced_engine"].dropna().astype(str)]).value_counts().sort_index()
    if len(counted) > 1:
        counts = ", ".join(f"{engine} ({number:,} answers)" for engine, number in counted.items())
        raise StoreError(f"answers come from several engines: {counts}. Differences may be theirs; to take them together: --mixed")


def planned_rows(study: Study, graded: pd.DataFrame) -> pd.DataFrame:
    """The rows that the YAML asks for: a folder may hold more (budgets, samples or problems of an earlier version of it)."""
    sets = {t.trace_set_id for model in study.config.models for t in study.trace_sets(model)}
    asked = {p.problem_id for benchmark in study.config.benchmarks for p in study.problems(benchmark)}
    planned = graded["cell_id"].isin(list(study.cells)) & graded["trace_set_id"].isin(list(sets))
    planned &= graded["problem_id"].isin(list(asked)) & (graded["sample_index"] < study.config.num_samples)
    kept: pd.DataFrame = graded[planned].reset_index(drop=True)
    if "stopped" in kept and study.config.stop is None:  # of the samples that are asked for all may be there
        kept = kept.assign(stopped=incomplete(kept, study.config.num_samples))
    return kept
