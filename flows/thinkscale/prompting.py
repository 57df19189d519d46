"""What stands before the thinking, and around it: prompts with worked examples, the model's tags as ids of its own tokenizer.

Why: a prompt is text that strangers may write (its template runs in a sandbox), and an example must never be the problem that is asked.
What it does not do: draw anything (see `generate`), hold a tokenizer of its own.
"""

import functools
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thinkscale.config import ConfigError, Model
from thinkscale.endpoint import Client
from thinkscale.problems import Benchmark, Problem
from thinkscale.thinking import Boundary

log = logging.getLogger(__name__)

UNWRITTEN = 0.05
"""Share of a text's characters that a tokenizer may lack."""
COMMONEST = 500
"""Characters that are tried, of a text that does not come back as it went in."""
SPARE = 16
"""Examples beyond those asked for, in place of any that is the problem asked or shares its cluster."""


async def boundary(client: Client, model: Model) -> Boundary:
    """The model's thinking tags as ids of its own tokenizer.

    Raises: ValueError where a model is said to close its thinking by itself and the close does not begin with one token of its own.
    """
    tags = model.thinking
    opened, closed = [tuple(await client.tokenize(t)) if t else () for t in (tags.open, tags.close)]
    off = tuple(await client.tokenize(tags.off)) if tags.off is not None else (*opened, *closed)
    if not tags.closes:
        return Boundary(opened, closed, off, None, tags.cue)
    first = await client.detokenize([closed[0]])
    if not first.strip() or not tags.close.startswith(first):
        raise ValueError(
            f"{model.name}: thinking.close is {tags.close!r} but its first token reads {first!r}: the model cannot write it as one token; "
            "set `closes: false`."
        )
    return Boundary(opened, closed, off, closed[0])


async def wait_ids(client: Client, model: Model, text: str) -> tuple[int, ...]:
    """Ids of what is put in place of a close. Raises ValueError where the model's tokenizer cannot write it."""
    if not text:
        return ()
    ids = await client.tokenize(text)
    if (back := await client.detokenize(ids)) != text:
        raise ValueError(
            f"{model.name}: thinking.wait: its tokenizer reads {text!r} as {back!r}. Name another text of prompts/ in its letters."
        )
    return tuple(ids)


async def written(client: Client, text: str, whose: str) -> tuple[int, ...]:
    """Ids of a text that is to be scored. Raises ValueError where they stand for another one, which would be scored in its place."""
    ids = await client.tokenize(text)
    if _folded(back := await client.detokenize(ids)) != _folded(text):
        raise ValueError(
            f"{whose}: its tokenizer reads the gold answer {text!r} as {back!r}, which would be scored in its place. "
            "Leave out the model, the benchmark or `gold_logprob`."
        )
    return tuple(ids)


async def check_alphabet(client: Client, whose: str, what: str, texts: Sequence[str]) -> None:
    """Say what of some texts the model's tokenizer cannot write; what it reads in its place is something else.

    Raises: ValueError where that is more than `UNWRITTEN` of them.
    """
    different = [t for t in texts if _folded(await client.detokenize(await client.tokenize(t))) != _folded(t)]
    if not different:
        return
    counts = Counter("".join(different))
    lost = [
        c
        for c, _ in counts.most_common(COMMONEST)
        if not c.isspace() and _folded(await client.detokenize(await client.tokenize(c))) != _folded(c)
    ]
    share = sum(counts[c] for c in lost) / max(1, sum(map(len, texts)))
    said = f"{whose}: its tokenizer cannot write {', '.join(map(repr, lost[:8]))}{' ...' if len(lost) > 8 else ''}, {share:.1%} of {what}"
    if share > UNWRITTEN:
        raise ValueError(f"{said}: what it reads and says of it means nothing. Leave the model or the text out.")
    if lost:
        log.warning("%s; it reads something else there", said)


def _folded(text: str) -> str:
    """What a tokenizer may change without changing what is meant: case, ways to write a letter, spaces around."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def example_pool(benchmark: Benchmark, number: int, seed: int) -> tuple[Problem, ...]:
    """Problems to show as worked examples: of a generated benchmark those of the next seed, otherwise all of the benchmark's.

    The more are asked for the longer is the pool, but its beginning stays the same. Raises ConfigError where there are too few.
    """
    if not number:
        return ()
    pool = tuple(benchmark.load(None if benchmark.size is not None else number + SPARE, seed + 1))
    if len(pool) <= number:  # one of them may be the problem asked
        raise ConfigError(
            f"examples: found {number}; {benchmark.name} has {len(pool)} problems, one of which is asked. Ask for at most {len(pool) - 1}."
        )
    return pool


def chosen(pool: Sequence[Problem], problem: Problem, number: int) -> tuple[Problem, ...]:
    """The first so many of the pool that are neither the problem asked nor of its cluster. Raises ConfigError where there are too few."""
    found = [p for p in pool if p.question != problem.question and p.cluster_id != problem.cluster_id][:number]
    if len(found) < number:
        raise ConfigError(
            f"examples: found {number}; only {len(found)} other problems are there for '{problem.question[:60]}'. Ask for fewer."
        )
    return tuple(found)


async def check_levels(client: Client, levels: Mapping[str, Model]) -> None:
    """Raise ValueError where the chat template makes the same prompt of two levels of effort: they would be compared and be no two.

    Args: levels: level -> the model as it is told of it.
    """
    made: dict[tuple[int, ...], str] = {}
    for level, model in levels.items():
        ids = tuple(await client.tokenize([{"role": "user", "content": "1"}], template_kwargs=model.template_kwargs))
        if ids in made:
            raise ValueError(
                f"{model.name}: its chat template makes the same prompt of {made[ids]} and {level}: it does not heed these. "
                "Give levels that it knows under `thinking.levels`, or leave this model out."
            )
        made[ids] = level


def render(prompt_text: str, problem: Problem, examples: Sequence[Problem] = ()) -> str:
    """The prompt for one problem.

    Raises: ValueError where the template does not hold the question, uses an unknown name or touches what it may not, leaves out the
    examples, or shows the thinking of examples that have none.
    """
    shown = [_Shown(p) for p in examples]
    try:
        text = _template(prompt_text).render(question=problem.question, choices=problem.choices, examples=shown)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as e:  # a template is a program of somebody's
        raise ValueError(
            f"prompt cannot be rendered: {e}. A prompt may use `question`, `choices` and `examples` (each with question, answer, worked)."
        ) from e
    if problem.question not in text:
        raise ValueError(f"prompt leaves out the question {problem.question[:60]!r}: put {{{{ question }}}} in the template.")
    if any(p.question not in text for p in examples):
        raise ValueError("prompt leaves out the examples: loop over `examples` in the template, or set `examples: [0]`.")
    return text


@functools.lru_cache(maxsize=64)
def _template(prompt_text: str) -> jinja2.Template:
    """Compiled once: it is rendered for every problem."""
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(prompt_text)


class _Shown:
    """An example as a template sees it."""

    def __init__(self, problem: Problem) -> None:
        self.question, self.answer, self.choices = problem.question, problem.answer, problem.choices
        self._worked = problem.worked

    @property
    def worked(self) -> str:
        """The thinking that leads to its answer."""
        if not self._worked:
            raise jinja2.TemplateRuntimeError(f"the example '{self.question[:60]}' has no worked thinking")
        return self._worked
