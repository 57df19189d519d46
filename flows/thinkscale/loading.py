"""Reads experiment files and the catalogue, and checks them against each other before anything is started.

Why: a typo that costs a GPU-day, or a budget that a model cannot hold, must be one clear error at the door: file, key, what was found, and
the nearest valid name. What it does not do: no network, no GPU, no exit(), no change of anything it read.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jinja2
from jinja2 import meta

from thinkscale.config import CATALOGUE, FLOWS, PROMPTS, Catalogue, ConfigError, Experiment, PointRef
from thinkscale.reading import nearest, read_yaml, validate
from thinkscale.routes import check_routes, is_greedy, prompt_name, variants

PROMPT_NAMES = ("question", "choices", "examples")
"""What a prompt's template may use; each of the examples has question, choices, answer, worked."""


def load_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Read `models.yaml`. Raises ConfigError."""
    raw = read_yaml(path)
    for section in ("models",):
        if isinstance(raw.get(section), dict):
            raw = {**raw, section: {k: {"name": k, **v} if isinstance(v, dict) else v for k, v in raw[section].items()}}
    catalogue = validate(Catalogue, raw, path)
    for model in catalogue.models.values():
        check_flags(model.engine_args, f"{path.name}: models.{model.name}.engine_args")
    return catalogue


def experiment_path(experiment: str) -> Path:
    """Path of a shipped experiment's YAML by name, or of a file by path. Raises ConfigError naming the nearest shipped name."""
    path = Path(experiment)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"no file '{experiment}'. Give a path that exists or the name of a shipped experiment.")
    shipped = {p.stem: p for p in (FLOWS / "experiments").glob("*.yaml")}
    if experiment in shipped:
        return shipped[experiment]
    raise ConfigError(f"no experiment '{experiment}' in flows/experiments.{nearest(experiment, shipped)}")


class Extent(NamedTuple):
    """How big a benchmark is, known without reading it."""

    problems: int | None
    """None: as many as asked for."""
    prompt_tokens: int
    """Mean, before the chat template."""


def load_experiment(experiment: str | Mapping[str, Any], catalogue: Catalogue, benchmarks: Mapping[str, Extent]) -> Experiment:
    """Read and check one experiment.

    Args:
        experiment: shipped name, path, or content (what the YAML would hold: so it travels to the workers of a cluster).
        catalogue: what it may name.
        benchmarks: every benchmark that it may name.
    Raises: ConfigError, one for the first thing that is wrong.
    """
    path = experiment_path(experiment) if isinstance(experiment, str) else Path("experiment")
    config = validate(Experiment, read_yaml(path) if isinstance(experiment, str) else dict(experiment), path)
    if not isinstance(experiment, str):
        _check_travels(config)
    _check_secrets(config, path)
    _check_names(config, catalogue, benchmarks, path)
    check_routes(config, catalogue, path)
    _check_claims(config, catalogue, path)
    _check_sizes(config, catalogue, benchmarks, path)
    return config


def _check_travels(config: Experiment) -> None:
    """Content comes from whoever may submit a run: it must not say what a worker executes, or which server is sent its key."""
    for key, instead in (
        ("command", "Set THINKSCALE_ENGINE_COMMAND in the worker's environment instead."),
        ("base_url", "Run `python flows/sweep.py` without a pool where that server can be reached."),
    ):
        if getattr(config.engine, key) is not None:
            raise ConfigError(
                f"experiment: engine.{key}: not taken from a parameter, which anybody who may submit runs can write. {instead}"
            )


_OURS = ("--host", "--port", "--uds", "--api-key", "--hf-token")
_SECRET = re.compile(
    # a variable that is set, anywhere in a word (`-eHF_TOKEN=`, `--env=A=1,hf_token=`, a line for a shell); no flag (`--max-tokens=8`), and
    # neither a number of tokens nor the id of one
    r"(?<![\w-])(-?\w*(?:KEY|TOKEN(?!IZER|\w*=\d+(?:[\s,;]|$))|SECRET|PASSW|AUTH)\w*=).*",
    re.DOTALL | re.IGNORECASE,
)


def check_flags(words: Sequence[str], where: str) -> None:
    """Raise ConfigError where an engine's command line would hold a secret (anybody on the machine reads it, and it is logged) or open the
    engine to other machines. The message does not repeat the value.
    """
    for word in words:
        for flag in (part.split("=")[0].replace("_", "-") for part in word.split()):  # a word may be a line for a shell
            if len(flag) > 3 and any(ours.startswith(flag) for ours in _OURS):  # the engine takes shortened flags too
                raise ConfigError(
                    f"{where}: '{flag}': engines listen on the loopback, with a random key. Remove it; a hub token: into the environment."
                )
        if secret := _SECRET.search(word):
            raise ConfigError(
                f"{where}: '{secret[1]}...': a secret here would stand in logs and process lists. Put it into the environment."
            )


def hidden(word: str) -> str:
    """A word of a command line as it may be shown: up to the value of a variable that is called a key, token or password."""
    return _SECRET.sub(r"\1...", word)


def _check_secrets(config: Experiment, path: Path) -> None:
    """The manifest, logs and Prefect's record hold the whole experiment: it must hold no secret."""
    check_flags(config.engine.command or (), f"{path.name}: engine.command")
    url = urlsplit(config.engine.base_url or "")
    if "@" in url.netloc or url.query or url.fragment:
        raise ConfigError(
            f"{path.name}: engine.base_url: holds a user, password or query, which would be written to the manifest and logs. "
            "Give the address alone, as http://host:port, and the key in the variable THINKSCALE_API_KEY."
        )


def prompt_text(prompt: str) -> str:
    """Text of a prompt file. Raises ConfigError where it is no template, uses a name that is not there, or leaves out the question."""
    path = PROMPTS / f"{prompt}.jinja"
    if not path.is_file():
        raise ConfigError(f"no prompt '{prompt}' in prompts/.{nearest(prompt, (p.stem for p in PROMPTS.glob('*.jinja')))}")
    text = path.read_text()
    try:
        names = _names_in(text)
    except jinja2.TemplateSyntaxError as e:
        raise ConfigError(f"prompts/{path.name}, line {e.lineno}: {e.message}") from e
    for name in sorted(names - set(PROMPT_NAMES)):
        raise ConfigError(f"prompts/{path.name}: unknown name '{name}'.{nearest(name, PROMPT_NAMES)}")
    if "question" not in names:
        raise ConfigError(f"prompts/{path.name} leaves out the question: put {{{{ question }}}} where it belongs.")
    return text


@functools.lru_cache(maxsize=64)
def _names_in(template: str) -> frozenset[str]:
    """What a template is to be given, beside what jinja gives by itself (`range` and such). Raises jinja2.TemplateSyntaxError."""
    environment = jinja2.Environment(autoescape=True)
    return frozenset(meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys())


def _known(path: Path, key: str, found: str, valid: Any, what: str) -> None:
    """Raise ConfigError, with the nearest valid name, where what was found is none."""
    if found not in valid:
        raise ConfigError(f"{path.name}: {key}: unknown {what} '{found}'.{nearest(found, valid)}")


def _check_names(config: Experiment, catalogue: Catalogue, benchmarks: Mapping[str, Extent], path: Path) -> None:
    known = functools.partial(_known, path)
    prompts = [p.stem for p in PROMPTS.glob("*.jinja")]
    for model in config.models:
        known("models", model, [m.name for m in catalogue.models.values() if m.runner == "generate"], "model")
    for benchmark, use in config.benchmarks.items():
        known("benchmarks", benchmark, benchmarks, "benchmark")
        prompt = use.prompt or config.prompt
        known(f"benchmarks.{benchmark}.prompt", prompt, prompts, "prompt")
        if "examples" not in _names_in(prompt_text(prompt)) and max(config.examples):
            fit = ", ".join(sorted(p for p in prompts if "examples" in (PROMPTS / f"{p}.jinja").read_text()))
            raise ConfigError(
                f"{path.name}: examples: found {max(config.examples)}; the prompt '{prompt}' of {benchmark} shows none. "
                f"Take one that loops over `examples` (here: {fit}), or leave `examples` out."
            )
    if config.scorer is not None:
        known("scorer", config.scorer, [m.name for m in catalogue.models.values() if m.runner == "pooling"], "model with runner 'pooling'")
    if config.gpu is not None:
        known("gpu", config.gpu, catalogue.gpus, "GPU")


class _Cell(NamedTuple):
    """Of one model, benchmark and budget: what else tells a cell from others, as in the columns."""

    route: str
    prompt: str
    sampling: str


def _check_claims(config: Experiment, catalogue: Catalogue, path: Path) -> None:
    """Raise ConfigError where a claim names what will not be there, or more than one cell: all data would be drawn before that is found."""
    for claim in config.claims:
        key = f"claims.{claim.name}"
        _known(path, f"{key}.benchmark", claim.benchmark, config.benchmarks, "benchmark of this experiment")
        points = []
        for side, ref in (("better", claim.better), ("worse", claim.worse)):
            _check_point(config, ref, f"{key}.{side}", path)
            cell = _claimed(config, catalogue, claim.benchmark, ref, f"{key}.{side}", path)
            # one sample has nothing to vote with or to be chosen from: it is right or wrong
            metric = "pass@k" if ref.k == 1 and ref.metric != "unforced pass@k" else ref.metric
            points.append((ref.model, ref.thinking_budget, cell, metric, ref.k))
        if points[0] == points[1]:
            raise ConfigError(f"{path.name}: {key}.worse: found the same point as `better`, so they cannot differ. Name another one.")


def _check_point(config: Experiment, ref: PointRef, key: str, path: Path) -> None:
    """Raise ConfigError where model, budget, metric or k of a claim's side are not of the experiment."""
    _known(path, f"{key}.model", ref.model, config.models, "model of this experiment")
    _known(path, f"{key}.thinking_budget", str(ref.thinking_budget), [str(b) for b in config.thinking_budgets], "budget of this experiment")
    if ref.metric.endswith("verifier_score") and config.scorer is None:
        raise ConfigError(f"{path.name}: {key}.metric: '{ref.metric}' needs a scorer. Name one as `scorer`, or take another metric.")
    if ref.k > config.num_samples:
        raise ConfigError(f"{path.name}: {key}.k: {ref.k} is more than num_samples = {config.num_samples}.")
    if ref.k & (ref.k - 1) and ref.k != config.num_samples:
        raise ConfigError(f"{path.name}: {key}.k: found {ref.k}; k is computed for powers of two and num_samples = {config.num_samples}.")


def _claimed(config: Experiment, catalogue: Catalogue, benchmark: str, ref: PointRef, key: str, path: Path) -> _Cell:
    """The cell that a claim's side names. Raises ConfigError where it is none or one of several."""
    use = config.benchmarks[benchmark]
    cells = [
        _Cell(str(route), prompt_name(use.prompt or config.prompt, examples), str(sampling))
        for route, examples, sampling, _ in variants(config, use, catalogue.models[ref.model].sampling)
        if ref.thinking_budget in route.budgets
    ]
    for word, found, valid in (("route", ref.route, {c.route for c in cells}), ("prompt", ref.prompt, {c.prompt for c in cells})):
        if found is not None:
            _known(path, f"{key}.{word}", found, valid, f"{word} of {benchmark} in this experiment")
    fit = {c for c in cells if ref.route in (None, c.route) and ref.prompt in (None, c.prompt)}
    fit = {c for c in fit if not is_greedy(c.sampling)} or fit  # a greedy reference beside what is sampled is not meant
    if len(fit) > 1:
        words = [word for word, values in zip(_Cell._fields, zip(*sorted(fit), strict=True), strict=True) if len(set(values)) > 1]
        names = "; ".join(", ".join(f"{word}: {getattr(cell, word)}" for word in words) for cell in sorted(fit))
        say = " and ".join(f"`{word}`" for word in words if word in PointRef.model_fields)  # no sampling: that is the model's
        what_to_do = f"Say {say}" if say else "Leave out `greedy`: what is sampled is greedy already"
        raise ConfigError(f"{path.name}: {key}: fits {len(fit)} cells ({names}). {what_to_do}.")
    return fit.pop()


def _check_sizes(config: Experiment, catalogue: Catalogue, benchmarks: Mapping[str, Extent], path: Path) -> None:
    for key, values in (
        ("models", config.models),
        ("thinking_budgets", config.thinking_budgets),
        ("examples", config.examples),
        ("claims", tuple(c.name for c in config.claims)),
    ):
        double = [v for v in values if values.count(v) > 1]
        if double:
            raise ConfigError(f"{path.name}: {key}: '{double[0]}' is given twice.")
    for benchmark, use in config.benchmarks.items():
        size = benchmarks[benchmark].problems
        if size is None and use.problems is None:
            raise ConfigError(f"{path.name}: benchmarks.{benchmark}.problems: missing; {benchmark} is generated without end, say how many.")
        if size is not None and use.problems is not None and use.problems > size:
            raise ConfigError(f"{path.name}: benchmarks.{benchmark}.problems: found {use.problems}, {benchmark} has {size}.")
    largest, prompt = max(config.thinking_budgets), max(benchmarks[b].prompt_tokens for b in config.benchmarks) * (1 + max(config.examples))
    for name in (*config.models, *([config.scorer] if config.scorer else [])):
        model = catalogue.models[name]
        if largest + config.answer_tokens + prompt >= model.context:
            raise ConfigError(
                f"{path.name}: thinking_budgets: {largest} + {config.answer_tokens} answer tokens + a prompt of {prompt} do not fit the "
                f"context of {name}, {model.context} tokens. "
                f"Lower the largest budget to {max(0, model.context - config.answer_tokens - prompt - 1)} or less."
            )
    if config.stop is not None:
        _check_stop(config, path)
    if config.sampling is not None and config.sampling.temperature == 0 and config.num_samples > 1:
        raise ConfigError(
            f"{path.name}: num_samples: found {config.num_samples} with temperature 0: greedy samples are all the same. "
            "Use 1, or a temperature above 0."
        )


def _check_stop(config: Experiment, path: Path) -> None:
    """What cannot be had together with a number of samples that the answers decide."""
    assert config.stop is not None
    if len(config.thinking_budgets) > 1:
        raise ConfigError(
            f"{path.name}: stop: found {len(config.thinking_budgets)} thinking_budgets; the vote at one budget decides when to stop. "
            "Keep one, and write a file for each of the others."
        )
    if config.num_samples <= config.stop.every:
        raise ConfigError(
            f"{path.name}: stop.every: found {config.stop.every} of num_samples = {config.num_samples}: there is nothing to stop. "
            "Raise num_samples, the most that is drawn, or lower stop.every."
        )
    for key in ("greedy", "gold_logprob", "claims", "scorer"):
        if getattr(config, key):
            raise ConfigError(
                f"{path.name}: {key}: cannot be had with `stop`, which leaves unequal numbers of samples. Remove one of them."
            )
