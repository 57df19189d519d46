"""Problems of reasoning-gym's datasets, from name, parameters and seed.

Why: reasoning-gym generates a hundred kinds of problems whose difficulty are parameters; a YAML entry that names dataset, parameters and
levels is a benchmark. What it does not do: grade (see `grading`), run scorers that evaluate the answer as code: those datasets are refused.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from thinkscale.config import digest
from thinkscale.layouts import Item
from thinkscale.reading import nearest
from thinkscale.sources import ConfigError, GymBenchmark

# reasoning-gym 0.1.25: these scorers hand the answer to eval(), or to sympy's parse_expr(), which is eval() too
RUN_CODE = {
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
}
ENDLESS = 1_000_000
"""Length asked of a dataset: an item depends on seed and index, not on it, and none is made before it is read."""
MAX_REPEATS = 1000
"""Repeated problems in a row after which a level counts as used up."""


def gym_identity(gym: GymBenchmark, seed: int) -> str:
    """What fixes the problems: the package's version too, for another may generate others from the same seed."""
    content = digest([gym.dataset, gym.levels, gym.varies, gym.settings, gym.grader])
    return f"reasoning-gym {version('reasoning-gym')} {gym.dataset} {content} seed {seed}"


def gym_items(name: str, gym: GymBenchmark, number: int | None, seed: int) -> list[Item]:
    """The first so many problems; levels take turns, so that every prefix is balanced over difficulty. Raises ConfigError."""
    if number is None:
        raise ConfigError(f"{name} is generated without end: say how many problems.")
    streams = [_level(name, gym, level, seed) for level in gym.levels]
    return [next(stream) for stream in itertools.islice(itertools.cycle(streams), number)]


def _level(name: str, gym: GymBenchmark, level: int, seed: int) -> Iterator[Item]:
    dataset, seen, repeats = _dataset(name, gym, level, seed), set(), 0
    for index in range(ENDLESS):
        entry = _plain(dataset[index])
        if entry["question"] in seen:
            repeats += 1
            if repeats > MAX_REPEATS:
                break
            continue
        seen.add(entry["question"])
        repeats = 0
        # where many answers are right reasoning-gym gives none as gold, but an example
        gold = entry["answer"] or entry["metadata"].get("example_answer")
        if not gold:
            raise ConfigError(f"models.yaml: gym.{name}: '{gym.dataset}' gives no answer that could be checked. Take another dataset.")
        yield Item(entry["question"], str(gold), float(level), metadata={"dataset": gym.dataset, "entry": entry})
    raise ConfigError(
        f"models.yaml: gym.{name}: level {level} has only {len(seen)} different problems. Ask for fewer, or widen its settings."
    )


def _dataset(name: str, gym: GymBenchmark, level: int, seed: int) -> Any:
    from reasoning_gym.factory import DATASETS  # seconds to import, and only these benchmarks need it

    if gym.dataset not in DATASETS:
        raise ConfigError(f"models.yaml: gym.{name}.dataset: reasoning-gym has no '{gym.dataset}'.{nearest(gym.dataset, DATASETS)}")
    if gym.dataset in RUN_CODE:
        raise ConfigError(
            f"models.yaml: gym.{name}.dataset: reasoning-gym's scorer of '{gym.dataset}' runs the answer as code. Take another dataset."
        )
    cls, config = DATASETS[gym.dataset]
    settings = {**gym.settings, **dict.fromkeys(gym.varies, level)}
    fields = {f.name for f in dataclasses.fields(config)}
    unknown = sorted(settings.keys() - fields)
    if unknown:
        raise ConfigError(f"models.yaml: gym.{name}: '{gym.dataset}' has no setting '{unknown[0]}'.{nearest(unknown[0], fields)}")
    try:
        # an item is drawn from seed + index: seeds one apart would give the same problems, one place on
        apart = int(digest([gym.dataset, level, seed]), 16) % 2**31
        return cls(config(**settings, seed=apart, size=ENDLESS))
    except (AssertionError, ValueError, TypeError) as e:  # how its configurations refuse
        raise ConfigError(f"models.yaml: gym.{name}: '{gym.dataset}' refuses level {level} with {settings}: {e}") from e


def _plain(value: Any) -> Any:
    """As JSON has it: tuples become lists, keys text, and what JSON lacks its text (an entry is stored with its problem)."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
