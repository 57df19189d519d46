"""What the small models that ship with the project are taught: two ladders, their vocabularies, the examples of every training step.

Why: a ladder is a course (skills, their shares, one vocabulary) taught to several sizes; the same step gives every size the same examples.
What it does not do: train (`ladder`), draw problems (`problems`, `skills`).
"""

import functools
import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from thinkscale.calculator import CALCULATOR
from thinkscale.config import FLOWS
from thinkscale.problems import GENERATED, Draft, Generated, held_out_drafts, training_draft
from thinkscale.skills import SKILLS

SPECIAL = ("<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
PAD, END, USER, ASSISTANT, OPEN, CLOSE = range(len(SPECIAL))
WORD_SHARE = 0.01
"""A word in this share of a skill's drafts is a token of its own."""
COUNTED = 400
"""Drafts of every level in which words are counted."""


class Width(NamedTuple):
    """What a size is made of; heads are of 32, the least that vLLM's CPU attention takes."""

    hidden: int
    heads: int
    layers: int
    mlp: int


class Lesson(NamedTuple):
    """A stretch of training under one mix of skills."""

    steps: int
    mix: dict[str, float]
    """Share of each skill: what is learned late gets more."""


class Stretch(NamedTuple):
    """A lesson within a training: its first step, the step after its last, its mix."""

    begin: int
    end: int
    mix: dict[str, float]


@dataclass(frozen=True)
class Ladder:
    """A family of models that differ in size alone."""

    name: str
    """Family, and the first part of every model's name."""
    says: str
    """What the model card says of it."""
    sizes: dict[str, Width]
    """Evenly spaced in log size."""
    kept: frozenset[str]
    """Sizes whose intermediate checkpoints are shipped."""
    lessons: tuple[Lesson, ...]
    """In the order they are taught; each has a learning rate that rises and falls."""
    characters: str
    marks: tuple[str, ...]
    """Markup that is one token."""
    worded: tuple[str, ...]
    """Skills whose frequent words are one token each; elsewhere a token is a character."""
    context: int
    folder: Path

    @property
    def steps(self) -> int:
        """Of training, in all lessons."""
        return sum(lesson.steps for lesson in self.lessons)

    @functools.cached_property
    def skills(self) -> dict[str, Generated]:
        """What is taught, by name."""
        return {name: (GENERATED | SKILLS)[name] for lesson in self.lessons for name in lesson.mix}

    def stretches(self, steps: int) -> list[Stretch]:
        """The lessons in a training of so many steps: each keeps its share."""
        ends = [steps * done // self.steps for done in itertools.accumulate(lesson.steps for lesson in self.lessons)]
        return [Stretch(*of) for of in zip([0, *ends[:-1]], ends, (lesson.mix for lesson in self.lessons), strict=True)]

    def stretch(self, step: int, steps: int) -> Stretch:
        """What is taught at a step of so many."""
        return next(stretch for stretch in self.stretches(steps) if step < stretch.end)

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """Tokens of several characters, with the blank before them where there is one; a function of the worded skills' drafts."""
        found = set[str]()
        for skill in (self.skills[name] for name in self.worded):
            rng, counts = random.Random(f"{self.name}/words/{skill.name}"), Counter[str]()
            for level in skill.levels:
                for draft in (skill.draw(rng, level) for _ in range(COUNTED)):
                    counts.update(set(re.findall(r" ?[A-Za-z]+", "\n".join(draft[:3]))))
            found |= {word for word, count in counts.items() if len(word) > 1 and count >= WORD_SHARE * COUNTED * len(skill.levels)}
        return tuple(sorted(found, key=lambda word: (-len(word), word)))

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return {token: i for i, token in enumerate((*SPECIAL, *self.characters, *self.marks, *self.words))}

    @functools.cached_property
    def pattern(self) -> str:
        """One token at the start of a text, as a regular expression: a mark, a whole word of the vocabulary, else a character."""
        words = "|".join(word if word[0] == " " else rf"\b{word}" for word in self.words)
        return "|".join([*self.marks, *([rf"(?:{words})\b"] if words else []), r"[\s\S]"])

    def tokens(self, text: str) -> list[str]:
        """A text without special tokens, cut into tokens."""
        return re.findall(self.pattern, text)

    def encode(self, text: str) -> list[int]:
        """Ids of a text without markup. Raises KeyError where a character is not in the alphabet."""
        return [self.vocabulary[token] for token in self.tokens(text)]


class Size(NamedTuple):
    """One size of a ladder."""

    ladder: Ladder
    name: str

    @property
    def width(self) -> Width:
        """What it is made of."""
        return self.ladder.sizes[self.name]

    @property
    def model(self) -> str:
        """Its name in the catalogue."""
        return f"{self.ladder.name}-{self.name}"


class Example(NamedTuple):
    """One training sequence: its ids, and which of them are learned."""

    ids: list[int]
    learned: list[bool]


def example(ladder: Ladder, draft: Draft, cut: int | None) -> Example:
    """A draft as a sequence: user, question, assistant, thinking (cut after so many tokens; None: whole), close, answer, end.

    The question is not learned, nor the close of a cut thinking (where it comes is our doing), nor what a tool puts into the thinking.
    """
    thinking = ladder.encode(draft.worked)[:cut]
    starts = itertools.accumulate((len(token) for token in ladder.tokens(draft.worked)), initial=0)
    written = [not any(first <= start < end for first, end in draft.injected) for start, _ in zip(starts, thinking, strict=False)]
    before = [USER, *ladder.encode(draft.question), ASSISTANT, OPEN]
    after = [*ladder.encode(draft.answer), END]
    learned = [False] * len(before) + written + [cut is None] + [True] * len(after)
    return Example([*before, *thinking, CLOSE, *after], learned)


class Shares(NamedTuple):
    """How many of the examples do not think to the end."""

    off: float = 0.2
    """Answered at once."""
    cut: float = 0.15
    """Cut at a random point of the thinking and then answered: a forced answer must be in distribution."""


SHARES = Shares()


def batch(ladder: Ladder, size: int, step: int, steps: int, shares: Shares = SHARES) -> list[Example]:
    """The examples of one step of so many, short ones first; not a function of who is taught, so that every size sees the same."""
    rng = random.Random(f"{ladder.name}/{step}")
    mix = ladder.stretch(step, steps).mix
    found = []
    for name in rng.choices(list(mix), weights=list(mix.values()), k=size):
        draft, u = training_draft(ladder.skills[name], rng), rng.random()
        whole = len(ladder.encode(draft.worked))
        cut = 0 if u < shares.off else rng.randrange(whole + 1) if u < shares.off + shares.cut else None
        found.append(example(ladder, draft, cut))
    return sorted(found, key=lambda e: len(e.ids))


@functools.cache
def held_out(name: str) -> tuple[tuple[Example, ...], int]:
    """Examples of a ladder's held-out problems, worked in full, and the bytes of what is learned in them (thinking and answer)."""
    drafts = held_out_problems(LADDERS[name])
    put_in = sum(end - start for d in drafts for start, end in d.injected)
    return tuple(example(LADDERS[name], d, None) for d in drafts), sum(len(d.worked) + len(d.answer) for d in drafts) - put_in


def held_out_problems(ladder: Ladder) -> list[Draft]:
    """What training never sees: forty problems of every level."""
    return [d for g in ladder.skills.values() for level in g.levels for d in itertools.islice(held_out_drafts(g, level, seed=-1), 40)]


WIDTHS = (
    Width(16, 1, 2, 48),
    Width(32, 1, 2, 56),
    Width(48, 1, 3, 56),
    Width(64, 2, 3, 80),
    Width(96, 3, 3, 112),
    Width(128, 4, 4, 128),
    Width(160, 5, 5, 200),
)
FIRST = Ladder(
    name="ladder",
    says="sums, swaps and a mapping given in the question, one token per character",
    sizes=dict(zip(("10k", "21k", "46k", "100k", "215k", "464k", "1m"), WIDTHS, strict=True)),
    kept=frozenset({"10k", "21k", "46k", "100k", "215k"}),  # all of them would be over 8 MB
    lessons=(Lesson(4500, {"sums": 0.4, "swaps": 0.22, "mapping": 0.38}),),
    characters="0123456789abcdefghijklmnopqrstuvwxyz+-*/=<>?!.,:;()[]' \n",
    marks=(),
    worded=(),
    context=256,
    folder=FLOWS / "ladder",
)
MANY = Ladder(
    name="many",
    says="eight skills in English, signs and an invented language, one token per character or frequent word",
    sizes=dict(zip(("15k", "32k", "62k", "121k", "245k", "510k"), WIDTHS[:6], strict=True)),
    kept=frozenset(),
    lessons=(
        Lesson(
            1600,
            {
                "sums": 0.18,
                "deduction": 0.1,
                "reversal": 0.14,
                "cipher": 0.2,
                "passages": 0.18,
                "toy-translation": 0.08,
                "calculator": 0.12,
            },
        ),
        Lesson(
            1200,  # reading that picks a letter comes late: it is taught to models that can read
            {"sums": 0.12, "deduction": 0.06, "reversal": 0.1, "cipher": 0.03, "passages": 0.13, "toy-translation": 0.08, "calculator": 0.1}
            | {"whereabouts": 0.38},
        ),
    ),
    characters="\n" + "".join(map(chr, range(32, 127))),
    marks=(CALCULATOR.open, CALCULATOR.close),
    worded=("deduction", "reversal", "passages", "toy-translation"),
    context=256,
    folder=FLOWS / "many",
)
LADDERS = {ladder.name: ladder for ladder in (FIRST, MANY)}
