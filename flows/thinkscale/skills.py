"""Skills whose problems this project generates beside the ladder's three: endless, graded in difficulty, with worked thinking.

Why: what is generated from a seed cannot have been in any training text, and its difficulty is a number that can be turned. Each skill is a
function of a random generator and a level; `SKILLS` says what it tests and what guessing would get.
What it does not do: the ladder's own three skills (see `problems`: their content is part of what its results rest on), grade.
"""

import functools
import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from thinkscale.calculator import worked_call
from thinkscale.layouts import lettered
from thinkscale.sources import Chance, Grader


class Draft(NamedTuple):
    """A generated problem before it has an identity."""

    question: str
    worked: str
    answer: str
    metadata: str = "{}"
    """What its grader needs besides the answer."""
    injected: tuple[tuple[int, int], ...] = ()
    """Parts of `worked` (from, to: characters) that a tool puts in: training must not learn them."""
    choices: tuple[str, ...] = ()
    """Of multiple choice: the options, in the order of their letters."""


@dataclass(frozen=True)
class Generated:
    """A generated skill: draws one problem of a given difficulty."""

    name: str
    skill: str
    grader: Grader
    chance: Chance
    levels: tuple[int, ...]
    version: int
    mean_prompt_tokens: int
    draw: Callable[[random.Random, int], Draft]


# --- logical reasoning ---

MOODS = {("All", ""): "A", ("No", ""): "E", ("Some", ""): "I", ("Some", "not "): "O"}
STATEMENT = re.compile(r"(All|No|Some) (\w+) are (not )?(\w+)")


def draw_deduction(rng: random.Random, premises: int) -> Draft:
    """A syllogism of reasoning-gym whose conclusion rests on one or two premises; as many follow as do not.

    Worked: both premises and the conclusion as logicians write them, a letter for each term: "All dogs are cats" is Aab.
    """
    wanted = rng.choice(("Yes", "No"))
    while True:
        entry = _syllogisms(premises)[rng.randrange(2**31)]
        if entry["answer"] == wanted:
            break
    letters: dict[str, str] = {}
    forms = []
    for said in (entry["metadata"][part] for part in ("premise1", "premise2", "conclusion")):
        ((quantity, subject, negated, predicate),) = STATEMENT.findall(said)
        for term in (subject, predicate):
            letters.setdefault(term, "abcdef"[len(letters)])
        forms.append(MOODS[quantity, negated] + letters[subject] + letters[predicate])
    return Draft(entry["question"], " ".join(forms), entry["answer"])


@functools.cache
def _syllogisms(premises: int) -> Any:
    """reasoning-gym's endless list: an item is a function of its index alone."""
    from reasoning_gym.logic.syllogisms import SyllogismConfig, SyllogismDataset  # one second to import: only where they are drawn

    return SyllogismDataset(SyllogismConfig(inversion_probability=float(premises == 1), seed=0, size=2**31))


# --- word manipulation ---


def draw_reversal(rng: random.Random, letters: int) -> Draft:
    """An English word of reasoning-gym to be spelled backward. Worked: its letters from the last to the first, apart."""
    while True:
        word = _words(letters)[rng.randrange(2**31)]["metadata"]["word"]
        if re.fullmatch("[a-z]+", word):
            break
    return Draft(f"Spell backward: {word}", " ".join(reversed(word)), word[::-1])


@functools.cache
def _words(letters: int) -> Any:
    """reasoning-gym's endless list of words of so many letters."""
    from reasoning_gym.algorithmic.spell_backward import SpellBackwardConfig, SpellBackwardDataset

    return SpellBackwardDataset(SpellBackwardConfig(min_word_len=letters, max_word_len=letters, seed=0, size=2**31))


# --- in-context learning ---

CIPHER_LETTERS = "abcdefgh"
CIPHER_LENGTH = 3


def draw_cipher(rng: random.Random, examples: int) -> Draft:
    """A letter-by-letter code that only the examples tell; with more of them a new word may have more letters. Worked: each letter."""
    code = dict(zip(CIPHER_LETTERS, rng.sample(CIPHER_LETTERS, len(CIPHER_LETTERS)), strict=True))
    words = ["".join(rng.sample(CIPHER_LETTERS, CIPHER_LENGTH)) for _ in range(examples)]
    known = sorted(set("".join(words)))
    asked = words[0]
    while asked in words:
        asked = "".join(rng.choices(known, k=CIPHER_LENGTH))

    def coded(word: str) -> str:
        return "".join(code[letter] for letter in word)

    shown = " ".join(f"{word}>{coded(word)}" for word in words)
    return Draft(f"{shown} {asked}>", " ".join(f"{letter}>{code[letter]}" for letter in asked), coded(asked))


# --- reading comprehension ---

PEOPLE = ("ann", "ben", "cleo", "dan", "eve", "fred", "gus", "hal", "ida", "jim", "kim", "leo", "max", "nina", "otto", "pam", "ray", "sue")
PLACES = ("attic", "barn", "cave", "dock", "farm", "garden", "hall", "inn", "kitchen", "market", "park", "school")
CHAINS = 3


def draw_passage(rng: random.Random, hops: int) -> Draft:
    """Who is where, by way of whom: three chains of people in shuffled sentences, one asked after. Worked: the chain, link by link."""
    people, places = rng.sample(PEOPLE, CHAINS * hops), rng.sample(PLACES, CHAINS)
    chains = [people[i * hops : (i + 1) * hops] for i in range(CHAINS)]
    sentences = [f"{chain[-1]} is in the {place}." for chain, place in zip(chains, places, strict=True)]
    sentences += [f"{a} is with {b}." for chain in chains for a, b in itertools.pairwise(chain)]
    rng.shuffle(sentences)
    links = [*chains[0], places[0]]
    return Draft(f"{' '.join(sentences)} where is {chains[0][0]}?", " ".join(links), places[0])


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = ("book", "ball", "hat", "cake", "lamp", "ring", "rose", "coin", "cup", "map")
TOLD = 5
"""Words that a meeting's sentence tells, one of which is asked after."""


def draw_meeting(rng: random.Random, meetings: int) -> Draft:
    """Who met whom, when and where, and gave what: one hop, asked after one of them. Worked: the sentence. A sentence as answer counts too.

    Easier than a passage, and in the words of every day: for small models of natural text.
    """
    people, places = [who.capitalize() for who in rng.sample(PEOPLE, 2 * meetings)], rng.sample(PLACES, meetings)
    days, things = rng.sample(DAYS, meetings), rng.sample(THINGS, meetings)
    pairs = list(zip(people[::2], people[1::2], strict=True))
    told = [f"On {d}, {a} met {b} in the {p} and gave {b} a {t}." for (a, b), p, d, t in zip(pairs, places, days, things, strict=True)]
    (a, b), place, day, thing = pairs[0], places[0], days[0], things[0]
    either = (f"{a} met {b}", f"{b} met {a}")
    question, answer, *also = rng.choice(
        (
            (f"Where did {a} meet {b}?", place, f"in the {place}", *(f"{met} in the {place}" for met in either)),
            (
                f"On which day did {a} meet {b}?",
                day,
                f"on {day}",
                *(text for met in either for text in (f"on {day} {met}", f"{met} on {day}")),
            ),
            (f"What did {a} give to {b}?", thing, f"{a} gave {b} a {thing}", f"{a} gave a {thing} to {b}"),
            (f"Who gave {b} a {thing}?", a, f"{a} gave {b} a {thing}", f"{a} gave a {thing} to {b}", f"{a} gave {b} the {thing}"),
        )
    )
    text = " ".join(rng.sample(told, meetings))
    return Draft(f"{text} {question}", told[0], answer, json.dumps({"answers": [answer, *also]}))


# --- multiple choice ---

OPTIONS = 4


def draw_whereabouts(rng: random.Random, sentences: int) -> Draft:
    """Who is where, in so many sentences, and four places to choose from, the others' among them. Worked: the sentence that says it.

    For models that know capital letters: the first ladder does not.
    """
    people, places = [who.capitalize() for who in rng.sample(PEOPLE, sentences)], rng.sample(PLACES, OPTIONS)
    said = [f"{who} is in the {where}." for who, where in zip(people, places, strict=False)]
    options = rng.sample(places, OPTIONS)
    question = lettered(f"{' '.join(rng.sample(said, sentences))} Where is {people[0]}?", options)
    return Draft(question, said[0], "ABCD"[options.index(places[0])], choices=tuple(options))


# --- translation into a language that nobody has seen ---

NOUNS = {
    **{"cat": "miro", "dog": "tavu", "bird": "selu", "fish": "noki", "king": "bara", "child": "peli", "horse": "duno", "wolf": "zagi"},
    **{"girl": "lemi", "cook": "koru", "bear": "fadu", "tree": "hiso", "ship": "vane", "town": "pogu", "hen": "jalo", "fox": "riza"},
}
ADJECTIVES = {"big": "ro", "small": "ki", "red": "su", "old": "ma", "quick": "te", "black": "vo"}
VERBS = {
    **{"sees": "galat", "hears": "milat", "feeds": "porat", "follows": "senat", "likes": "turat"},
    **{"finds": "velat", "leaves": "bonat", "helps": "kifat", "needs": "dulat", "wakes": "resat"},
}
TRANSLATED_FROM = 0.99


def draw_translation(rng: random.Random, words: int) -> Draft:
    """English into a toy language: adjectives follow their noun, the object ends in -n, the verb comes last. Worked: word by word."""
    adjectives = words - 3
    first = rng.randint(max(0, adjectives - 2), min(2, adjectives))
    phrases = []
    for count, noun in zip((first, adjectives - first), rng.sample(sorted(NOUNS), 2), strict=True):
        phrases.append((rng.sample(sorted(ADJECTIVES), count), noun))
    verb = rng.choice(sorted(VERBS))
    subject, obj = (" ".join(["the", *chosen, noun]) for chosen, noun in phrases)
    (said, who), (also, whom) = ((" ".join(ADJECTIVES[a] for a in chosen), NOUNS[noun]) for chosen, noun in phrases)
    answer = " ".join(part for part in (who, said, f"{whom}n", also, VERBS[verb]) if part)
    dictionary = NOUNS | ADJECTIVES | VERBS
    english = f"{subject} {verb} {obj}"
    worked = " ".join(f"{word}={dictionary[word]}" for word in english.split() if word != "the")
    return Draft(english, worked, answer, json.dumps({"correct_from": TRANSLATED_FROM}))


# --- code ---


class Step(NamedTuple):
    """One step of a specified function: what is said, and the Python that does it to the list `xs`."""

    said: str
    code: str


STEPS: tuple[Callable[[int], Step], ...] = (
    lambda n: Step(f"add {n} to each number", f"xs = [x + {n} for x in xs]"),
    lambda n: Step(f"multiply each number by {n}", f"xs = [x * {n} for x in xs]"),
    lambda n: Step(f"keep only the numbers greater than {n}", f"xs = [x for x in xs if x > {n}]"),
    lambda n: Step(f"drop the numbers divisible by {n}", f"xs = [x for x in xs if x % {n} != 0]"),
    lambda n: Step("sort the numbers in ascending order", "xs = sorted(xs)"),
    lambda n: Step("reverse the order of the numbers", "xs = xs[::-1]"),
    lambda n: Step(f"keep only the first {n} numbers", f"xs = xs[:{n}]"),
    lambda n: Step("replace each number by the sum of all numbers up to it", "xs = [sum(xs[: i + 1]) for i in range(len(xs))]"),
)
HIDDEN_TESTS = 8


def draw_function(rng: random.Random, steps: int) -> Draft:
    """A function on lists of integers, specified in words, step by step, with hidden tests. Worked: the steps' code."""
    chosen = [make(rng.randint(2, 9)) for make in rng.sample(STEPS, steps)]
    lines = [step.code for step in chosen]
    said = "; ".join(f"{i}) {step.said}" for i, step in enumerate(chosen, 1))
    question = (
        "Write a Python function f(xs) that takes a list of integers, does the following in this order, and returns the resulting "
        f"list: {said}."
    )
    answer = "\n".join(["def f(xs):", *(f"    {line}" for line in lines), "    return xs", ""])
    calls = [[rng.choices(range(-9, 20), k=size)] for size in (0, 1, *(rng.randint(4, 9) for _ in range(HIDDEN_TESTS - 2)))]
    expected = [_apply(lines, call[0]) for call in calls]
    return Draft(question, "\n".join(lines), answer, json.dumps({"entry_point": "f", "calls": calls, "expected": expected}))


def _apply(lines: list[str], xs: list[int]) -> Any:
    """What our own steps make of a list (they are the constants above, not a model's text)."""
    for line in lines:
        xs = eval(line.removeprefix("xs = "), {"xs": xs})
    return xs


# --- tool use ---

FACTORS, TERMS = range(12, 100), range(1000, 10_000)
LEAST = 2 * TERMS.stop
"""What is subtracted from is larger: no total is negative."""


def draw_calculation(rng: random.Random, steps: int) -> Draft:
    """A calculation of so many steps, each on the total so far, too large for the head. Worked: one call of the calculator for each."""
    total = rng.choice(TERMS)
    question, worked, injected, before = str(total), "", [], ""
    for _ in range(steps):
        sign = rng.choice("*+-") if before else "*"
        sign = "+" if sign == "-" and total < LEAST else sign
        number = rng.choice(FACTORS if sign == "*" else TERMS)
        so_far = f"({question})" if sign == "*" and before in ("+", "-") else question
        question, before = f"{so_far}{sign}{number}", sign
        call, result = worked_call(f"{total}{sign}{number}")
        injected.append((len(worked) + len(call), len(worked) + len(call) + len(result)))
        worked += call + result
        total = {"*": total * number, "+": total + number, "-": total - number}[sign]
    return Draft(f"{question}=", worked, str(total), injected=tuple(injected))


SKILLS: dict[str, Generated] = {
    g.name: g
    for g in (
        Generated("deduction", "logical reasoning", "exact", 1 / 2, (1, 2), 1, 45, draw_deduction),
        Generated("reversal", "word manipulation", "exact", 0.0, (4, 5, 6, 7, 8), 1, 12, draw_reversal),
        Generated("cipher", "in-context learning", "exact", 1 / len(CIPHER_LETTERS) ** CIPHER_LENGTH, (1, 2, 4, 8), 1, 40, draw_cipher),
        Generated("passages", "reading comprehension", "f1", 1 / CHAINS, (1, 2, 3, 4), 1, 60, draw_passage),
        Generated("meetings", "reading comprehension", "f1", {1: 1 / TOLD, 2: 1 / TOLD / 2}, (1, 2), 1, 50, draw_meeting),
        Generated("whereabouts", "reading, multiple choice", "choice", 1 / OPTIONS, (1, 2, 3, 4), 1, 70, draw_whereabouts),
        Generated("toy-translation", "translation", "chrf", 0.0, (3, 4, 5, 6, 7), 1, 12, draw_translation),
        Generated("calculator", "tool use", "number", 0.0, (1, 2, 3, 4), 1, 20, draw_calculation),
        Generated("functions", "code generation", "code", 0.0, (2, 3, 4, 5), 1, 80, draw_function),
    )
}
