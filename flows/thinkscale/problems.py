"""Benchmarks: named sets of problems, each a small declaration.

Why: the ladder's skills are generated, so that problems are fresh, endless and graded in difficulty; files are read at a pinned revision,
reasoning-gym's datasets made from name, parameters and seed. A problem generated here is either held out (benchmarks use only those) or
free (training uses only those), by a hash of its question.
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
from typing import Any

from thinkscale.config import FLOWS, Catalogue, digest
from thinkscale.gym import gym_identity, gym_items
from thinkscale.layouts import Item, read_items
from thinkscale.loading import Extent
from thinkscale.skills import SKILLS as SKILLS
from thinkscale.skills import Draft as Draft
from thinkscale.skills import Generated as Generated
from thinkscale.sources import Chance, ConfigError, GymBenchmark, HubBenchmark
from thinkscale.sources import Grader as Grader

HELD_OUT_SHARE = 0.1
MAX_IN_VAIN = 5000
"""Draws without a new problem after which a level counts as used up."""
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

    @property
    def letters(self) -> tuple[str, ...]:
        """The letter of each choice."""
        return tuple(chr(ord("A") + i) for i in range(len(self.choices)))

    @property
    def right_choice(self) -> int:
        """Place of the gold answer among the choices. A letter is a letter, also where an option's text is one ("O", "A", "B", "AB");
        otherwise it may be the option's text. Raises ValueError where it is neither.
        """
        gold = self.answer.strip()
        return self.letters.index(gold) if gold in self.letters else self.choices.index(gold)


@dataclass(frozen=True)
class Benchmark:
    """A named set of problems: what it tests, how it is graded, where its problems come from."""

    name: str
    skill: str
    grader: Grader
    chance: Chance
    size: int | None
    """Number of problems; None: as many as asked for."""
    mean_prompt_tokens: int
    identity: Callable[[int], str]
    """Problem seed -> what fixes the content (generator, version and seed; or hub revision)."""
    load: Callable[[int | None, int], list[Problem]]
    """(number, seed) -> the first problems, the same prefix for every number."""
    correct_from: float | None = None
    """Likeness from which an answer counts as right, where the declaration states one."""
    at_hand: bool = True
    """Can it be read without asking the hub?"""

    @property
    def extent(self) -> Extent:
        """What an experiment file is checked against."""
        return Extent(self.size, self.mean_prompt_tokens)


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
    rng, seen, in_vain = random.Random(f"{generated.name}/{generated.version}/{level}/{seed}"), set[str](), 0
    while in_vain < MAX_IN_VAIN:
        draft = generated.draw(rng, level)
        in_vain += 1
        if held_out(draft.question) and draft.question not in seen:
            seen.add(draft.question)
            in_vain = 0
            yield draft
    raise ConfigError(f"{generated.name}: level {level} has hardly more than {len(seen)} held-out problems. Ask for fewer.")


def benchmarks(catalogue: Catalogue) -> dict[str, Benchmark]:
    """Every benchmark that an experiment may name: the generated ones and the catalogue's. Raises ConfigError where two have one name."""
    generated = {name: _from_generated(g) for name, g in (GENERATED | SKILLS).items()}
    gym = {name: _from_gym(name, g) for name, g in catalogue.gym.items()}
    files = {name: _from_hub(name, hub) for name, hub in catalogue.benchmarks.items()}
    double = (gym.keys() & files.keys()) | (generated.keys() & (gym.keys() | files.keys()))
    if double:
        raise ConfigError(f"models.yaml: the name '{min(double)}' stands for two benchmarks (generated, gym, benchmarks). Rename one.")
    return generated | gym | files


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
    return Problem(problem_id, problem_id, draft.question, draft.answer, difficulty, draft.choices, draft.metadata, draft.worked)


def _from_gym(name: str, gym: GymBenchmark) -> Benchmark:
    return Benchmark(
        name=name,
        skill=gym.skill,
        grader=gym.grader,
        chance=gym.chance,
        size=None,
        mean_prompt_tokens=gym.mean_prompt_tokens,
        identity=lambda seed: gym_identity(gym, seed),
        load=lambda number, seed: [_of_item(name, item) for item in gym_items(name, gym, number, seed)],
    )


def _of_item(benchmark: str, item: Item) -> Problem:
    gold = item.answer.strip()
    problem_id = digest([benchmark, *([item.id] if item.id else []), item.question, gold])
    cluster_id = digest([benchmark, item.cluster]) if item.cluster else problem_id
    return Problem(problem_id, cluster_id, item.question, gold, item.difficulty, item.choices, json.dumps(item.metadata or {}))


def _from_hub(name: str, hub: HubBenchmark) -> Benchmark:
    return Benchmark(
        name=name,
        skill=hub.skill,
        grader=hub.grader,
        chance=hub.chance,
        size=hub.problems,
        mean_prompt_tokens=hub.mean_prompt_tokens,
        identity=lambda seed: _hub_identity(name, hub),
        load=lambda number, seed: _read_hub(name, hub)[:number],
        correct_from=hub.correct_from if hub.grader == "chrf" else None,
        at_hand=all((FLOWS / hub.source / file).is_file() for file in _files(hub)),
    )


def _hub_identity(name: str, hub: HubBenchmark) -> str:
    """A pinned revision fixes the content; a local file may change under its name, so its content is hashed. How it is read counts, too.

    Raises: ConfigError for a file of the hub without a revision: nobody could say later what was asked.
    """
    declared = hub.model_dump(mode="json", include=_READING, exclude_defaults=True)
    read = f" read as {digest(declared)}" if declared else ""
    local = [path for file in _files(hub) if (path := FLOWS / hub.source / file).is_file()]
    if not local and hub.revision is None:
        raise ConfigError(
            f"models.yaml: benchmarks.{name}.revision: missing. Give the commit of {hub.source} that you use (40 hex digits, on the hub), "
            f"or set `source` to a local folder that holds {hub.file}."
        )
    if not local:
        return f"{hub.source}/{hub.file} at {hub.revision}{read}"
    return f"{' '.join(_files(hub))} sha256 {digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in local])}{read}"


_READING = {"layout", "question", "answer", "answer_after", "difficulty", "id", "columns"}
"""Of a declaration: what makes other problems of the same file."""


def _files(hub: HubBenchmark) -> list[str]:
    return [hub.file, *([hub.answer_file] if hub.answer_file else [])]


def _read_hub(name: str, hub: HubBenchmark) -> list[Problem]:
    """All problems of a file of the hub or of this disk. Raises ConfigError where a row lacks something or stands there twice."""
    _hub_identity(name, hub)
    path, *answers = (hub_file(hub, file) for file in _files(hub))
    found: dict[str, Problem] = {}
    golds: dict[str, str] = {}
    for index, item in enumerate(read_items(path, hub, *answers)):
        problem = _of_item(name, item)
        if problem.problem_id in found:
            raise ConfigError(f"benchmark {name}, row {index}: the same question and answer stand in an earlier row.")
        other = golds.setdefault(problem.question, problem.answer)
        if hub.layout == "columns" and other != problem.answer:
            raise ConfigError(
                f"benchmark {name}, row {index}: the question of an earlier row, with the answer {problem.answer[:60]!r} in place of "
                f"{other[:60]!r}. One of them is graded wrong whatever is said: mend or remove a row."
            )
        found[problem.problem_id] = problem
    if len(found) != hub.problems:
        raise ConfigError(
            f"models.yaml: benchmarks.{name}.problems: says {hub.problems}, {path.name} holds {len(found)}. Another revision?"
        )
    # these files are sorted by subject or article: in the order of a hash, the first so many are a fair sample
    return sorted(found.values(), key=lambda p: p.problem_id) if hub.layout in ("mmlu", "squad") else list(found.values())


def hub_file(hub: HubBenchmark, file: str) -> Path:
    """Local path of a benchmark's file, downloaded once at the pinned revision. Raises ConfigError when the hub cannot be reached."""
    local = FLOWS / hub.source / file
    if local.is_file():
        return local
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as e:
        raise ConfigError(f"reading {hub.source} needs huggingface_hub: pip install -e '.[gpu]' or '.[cpu]'.") from e
    try:
        return Path(hf_hub_download(hub.source, file, repo_type="dataset", revision=hub.revision))
    except (OSError, ValueError) as e:  # huggingface_hub's errors are OSErrors (network) or ValueErrors (names)
        raise ConfigError(
            f"cannot read {file} of {hub.source} at {hub.revision} from the hub: {e}. "
            "Reach the hub once to fill its cache, or set `source` to a local folder that holds the file."
        ) from e
