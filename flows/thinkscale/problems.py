"""Benchmarks: named sets of problems, each a small declaration.

Why: the ladder's skills are generated, so that problems are fresh, endless and graded in difficulty; hub benchmarks are read at a pinned
revision. A generated problem is either held out (benchmarks use only those) or free (training uses only
those), by a hash of its question.
What it does not do: render prompts, grade answers.
"""

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from thinkscale.config import FLOWS, Catalogue, ConfigError, HubBenchmark, digest
from thinkscale.loading import Extent

Grader = Literal["number", "exact", "choice", "reasoning_gym"]

HELD_OUT_SHARE = 0.1
MAPPING_LETTERS = "abcde"
SWAP_LETTERS = "abcde"
WORD_LENGTH = 4


@dataclass(frozen=True)
class Problem:
    """One item of a benchmark."""

    problem_id: str
    cluster_id: str
    question: str
    answer: str
    difficulty: float
    choices: tuple[str, ...] = ()
    metadata: str = "{}"
    worked: str = ""
    """Worked thinking that leads to the answer; only the training of the ladder reads it."""


class Draft(NamedTuple):
    """A generated problem before it has an identity."""

    question: str
    worked: str
    answer: str


@dataclass(frozen=True)
class Benchmark:
    """A named set of problems: what it tests, how it is graded, where its problems come from."""

    name: str
    skill: str
    grader: Grader
    chance: float
    """Accuracy of guessing."""
    size: int | None
    """Number of problems; None: as many as asked for."""
    mean_prompt_tokens: int
    identity: Callable[[int], str]
    """Problem seed -> what fixes the content (generator, version and seed; or hub revision)."""
    load: Callable[[int | None, int], list[Problem]]
    """(number, seed) -> the first problems, the same prefix for every number."""

    @property
    def extent(self) -> Extent:
        """What an experiment file is checked against."""
        return Extent(self.size, self.mean_prompt_tokens)


@dataclass(frozen=True)
class Generated:
    """A skill of the ladder: draws one problem of a given difficulty."""

    name: str
    skill: str
    grader: Grader
    chance: float
    levels: tuple[int, ...]
    version: int
    mean_prompt_tokens: int
    draw: Callable[[random.Random, int], Draft]


def draw_sum(rng: random.Random, terms: int) -> Draft:
    """`terms` two-digit numbers from reasoning-gym's chain_sum, additions only; worked thinking = running totals: 12+45 -> 210+54=750.

    Each step copies the next term and then adds it. Numbers are written units first and in fixed width: carries then run the way tokens are
    written, and what is added stands at a fixed distance, which small models learn soonest.
    """
    while True:
        entry = _chain_sums(terms)[rng.randrange(2**31)]
        if "-" not in entry["metadata"]["expression"]:
            break
    expression = entry["metadata"]["expression"].replace(" ", "")
    numbers = [int(term) for term in expression.split("+")]
    totals = [f"{total:03d}"[::-1] for total in itertools.accumulate(numbers)]
    steps = "".join(f"+{f'{term:02d}'[::-1]}={total}" for term, total in zip(numbers[1:], totals[1:], strict=True))
    return Draft(f"{expression}=", totals[0] + steps, entry["answer"])


@functools.cache
def _chain_sums(terms: int) -> Any:
    """reasoning-gym's endless list of sums of so many terms: an item is a function of its index alone."""
    from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset  # one second to import: only where sums are drawn

    return ChainSumDataset(ChainSumConfig(min_terms=terms, max_terms=terms, min_digits=2, max_digits=2, seed=0, size=2**31))


def draw_swaps(rng: random.Random, swaps: int) -> Draft:
    """Five letters in a row, then pairs of positions to swap; worked thinking = the row after each swap; answer = the last row."""
    row = list(SWAP_LETTERS)
    rng.shuffle(row)
    start, moves, states = "".join(row), [], []
    for _ in range(swaps):
        i, j = rng.sample(range(len(row)), 2)
        row[i], row[j] = row[j], row[i]
        moves.append(f"{i + 1}{j + 1}")
        states.append("".join(row))
    return Draft(f"{start} {' '.join(moves)}", " ".join(states), states[-1])


def draw_mapping(rng: random.Random, times: int) -> Draft:
    """A mapping of five letters (one cycle, so that nothing comes back early) given as pairs, to be applied `times` times to a word."""
    cycle = list(MAPPING_LETTERS)
    rng.shuffle(cycle)
    follows = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    pairs = [letter + follows[letter] for letter in rng.sample(MAPPING_LETTERS, len(MAPPING_LETTERS))]
    word = "".join(rng.choice(MAPPING_LETTERS) for _ in range(WORD_LENGTH))
    question, words = f"{' '.join(pairs)} ?{word}{'>' * times}", []
    for _ in range(times):
        word = "".join(follows[letter] for letter in word)
        words.append(word)
    return Draft(question, " ".join(words), word)


GENERATED: dict[str, Generated] = {
    g.name: g
    for g in (
        Generated("sums", "multi-step sums", "number", 0.0, (2, 3, 4, 5, 6), 1, 16, draw_sum),
        Generated("swaps", "state tracking", "exact", 1 / 120, (1, 2, 3, 4, 5), 1, 18, draw_swaps),
        Generated("mapping", "in-context mapping", "exact", 1 / len(MAPPING_LETTERS) ** WORD_LENGTH, (1, 2, 3, 4), 1, 25, draw_mapping),
    )
}


def held_out(question: str) -> bool:
    """True for the tenth of all questions that training never sees."""
    return hashlib.sha256(question.encode()).digest()[0] < 256 * HELD_OUT_SHARE


def training_draft(generated: Generated, rng: random.Random) -> Draft:
    """A problem that no benchmark contains, of a random difficulty."""
    while True:
        draft = generated.draw(rng, rng.choice(generated.levels))
        if not held_out(draft.question):
            return draft


def held_out_drafts(generated: Generated, level: int, seed: int) -> Iterator[Draft]:
    """Endless distinct held-out problems of one difficulty; the sequence depends on name, level and seed only."""
    rng, seen = random.Random(f"{generated.name}/{generated.version}/{level}/{seed}"), set()
    while True:
        draft = generated.draw(rng, level)
        if held_out(draft.question) and draft.question not in seen:
            seen.add(draft.question)
            yield draft


def benchmarks(catalogue: Catalogue) -> dict[str, Benchmark]:
    """Every benchmark that an experiment may name: the generated ones and the catalogue's."""
    known = {name: _from_generated(g) for name, g in GENERATED.items()}
    return known | {name: _from_hub(name, hub) for name, hub in catalogue.benchmarks.items()}


def _from_generated(generated: Generated) -> Benchmark:
    return Benchmark(
        name=generated.name,
        skill=generated.skill,
        grader=generated.grader,
        chance=generated.chance,
        size=None,
        mean_prompt_tokens=generated.mean_prompt_tokens,
        identity=lambda seed: f"{generated.name} version {generated.version} seed {seed}",
        load=functools.partial(_generate, generated),
    )


def _generate(generated: Generated, number: int | None, seed: int) -> list[Problem]:
    """Levels take turns, so that every prefix is balanced over difficulty."""
    if number is None:
        raise ConfigError(f"{generated.name} is generated without end: say how many problems.")
    streams = [(level, held_out_drafts(generated, level, seed)) for level in generated.levels]
    turns = itertools.islice(itertools.cycle(streams), number)
    return [_problem(generated.name, next(stream), float(level)) for level, stream in turns]


def _problem(benchmark: str, draft: Draft, difficulty: float) -> Problem:
    problem_id = digest([benchmark, draft.question, draft.answer])
    return Problem(problem_id, problem_id, draft.question, draft.answer, difficulty, worked=draft.worked)


def _from_hub(name: str, hub: HubBenchmark) -> Benchmark:
    return Benchmark(
        name=name,
        skill=hub.skill,
        grader=hub.grader,
        chance=hub.chance,
        size=hub.problems,
        mean_prompt_tokens=hub.mean_prompt_tokens,
        identity=lambda seed: f"{hub.source}/{hub.file} at {hub.revision}",
        load=lambda number, seed: _read_hub(name, hub)[:number],
    )


def _read_hub(name: str, hub: HubBenchmark) -> list[Problem]:
    """All problems of a hub benchmark (or of a local file of the same layout). Raises ConfigError where a row lacks question or answer."""
    import pandas as pd

    path = hub_file(hub)
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
    absent = {hub.question, hub.answer} - set(frame.columns)
    if absent:
        raise ConfigError(f"models.yaml: benchmarks.{name}: {path.name} has no column {sorted(absent)}; it has {list(frame.columns)}.")
    found, seen = [], set()
    rows = frame[[hub.question, hub.answer]].fillna("").astype(str)  # a missing answer must not become the text "nan"
    for index, (question, answer) in enumerate(rows.itertuples(index=False, name=None)):
        gold = (answer.rsplit(hub.answer_after, 1)[-1] if hub.answer_after else answer).strip()
        if not question.strip() or not gold:
            raise ConfigError(f"benchmark {name}, row {index}: empty question or answer.")
        problem_id = digest([name, question, gold])
        if problem_id in seen:
            raise ConfigError(f"benchmark {name}, row {index}: the same question and answer stand in an earlier row.")
        seen.add(problem_id)
        found.append(Problem(problem_id, problem_id, question, gold, 0.0, metadata=json.dumps({"row": index})))
    if hub.problems is not None and len(found) != hub.problems:
        raise ConfigError(
            f"models.yaml: benchmarks.{name}.problems: says {hub.problems}, {path.name} holds {len(found)}. Another revision?"
        )
    return found


def hub_file(hub: HubBenchmark) -> Path:
    """Local path of a benchmark's file, downloaded once at the pinned revision. Raises ConfigError when the hub cannot be reached."""
    local = FLOWS / hub.source / hub.file
    if local.is_file():
        return local
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as e:
        raise ConfigError(f"reading {hub.source} needs huggingface_hub: pip install -e '.[gpu]' or '.[cpu]'.") from e
    try:
        return Path(hf_hub_download(hub.source, hub.file, repo_type="dataset", revision=hub.revision))
    except (OSError, ValueError) as e:  # huggingface_hub's errors are OSErrors (network) or ValueErrors (names)
        raise ConfigError(
            f"cannot read {hub.file} of {hub.source} at {hub.revision or 'the newest revision'} from the hub: {e}. "
            "Reach the hub once to fill its cache, or set `source` to a local folder that holds the file."
        ) from e
