"""Every skill: gold answers grade correct, wrong ones get credit in [0, 1], difficulty is an axis, content follows from the seed."""

import dataclasses
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from thinkscale.config import ConfigError
from thinkscale.grading import check_golds, check_graders, grade, grader_version
from thinkscale.loading import load_catalogue, load_experiment, prompt_text
from thinkscale.measure import guessing
from thinkscale.problems import Benchmark, Draft, Generated, benchmarks, held_out, held_out_drafts, training_draft
from thinkscale.skills import ADJECTIVES, CHAINS, NOUNS, SKILLS, VERBS
from thinkscale.sources import GymBenchmark

CATALOGUE = load_catalogue()
KNOWN = benchmarks(CATALOGUE)
ENDLESS = [name for name, benchmark in KNOWN.items() if benchmark.size is None]
NEW = [*SKILLS, *CATALOGUE.gym]


@pytest.mark.parametrize("name", ENDLESS)
def test_every_gold_answer_grades_correct_and_what_is_not_it_gets_credit_between_0_and_1(name: str) -> None:
    benchmark = KNOWN[name]
    found = benchmark.load(16 if benchmark.grader == "code" else 60, 0)
    check_golds(benchmark, found)
    for problem in found:
        for text in (problem.answer, f"{problem.answer}\n"):
            result = grade(benchmark.grader, text, problem, truncated=False)
            assert (result.correct, result.partial, result.status) == (True, 1.0, "answered"), problem
    for problem, other in itertools.pairwise(found[:8]):
        result = grade(benchmark.grader, other.answer, problem, truncated=False)
        assert 0 <= result.partial <= 1 and (result.correct or result.partial < 1)
        assert grade(benchmark.grader, "", problem, truncated=False).status == "no_answer"
        assert grade(benchmark.grader, "", problem, truncated=True).status == "truncated_answer"
    assert grader_version(benchmark.grader)


@pytest.mark.parametrize("name", NEW)
def test_problems_are_distinct_balanced_and_a_prefix_of_more(name: str) -> None:
    benchmark = KNOWN[name]
    found = benchmark.load(60, 0)
    assert len({p.problem_id for p in found}) == len({p.question for p in found}) == 60
    counts = Counter(p.difficulty for p in found)
    assert len(counts) >= 2 and max(counts.values()) - min(counts.values()) <= 1
    assert benchmark.load(20, 0) == found[:20]
    other = benchmark.load(60, 1)
    assert len({p.problem_id for p in found} & {p.problem_id for p in other}) < 20 and benchmark.identity(0) != benchmark.identity(1)
    assert benchmark.skill


@pytest.mark.parametrize("name", NEW)
def test_who_always_says_the_commonest_answer_of_a_level_is_no_better_than_chance_there(name: str) -> None:
    benchmark = KNOWN[name]
    found = pd.DataFrame([dataclasses.asdict(p) for p in benchmark.load(50 * len({p.difficulty for p in benchmark.load(20, 0)}), 0)])
    chance = guessing(benchmark.chance, found["difficulty"])
    assert ((chance >= 0) & (chance < 1)).all()
    for level, rows in found.groupby("difficulty"):
        common = rows["answer"].value_counts(normalize=True).iloc[0]
        assert common <= chance[rows.index].mean() + 0.15, f"difficulty {level:g}: {common:.2f}"


@pytest.mark.parametrize("generated", SKILLS.values(), ids=lambda g: g.name)
def test_training_never_sees_a_held_out_question(generated: Generated) -> None:
    rng = random.Random(0)
    assert not any(held_out(training_draft(generated, rng).question) for _ in range(50))
    assert all(held_out(p.question) for p in KNOWN[generated.name].load(20, 0))


def test_skills_of_the_issue_are_there() -> None:
    skills = {benchmark.skill for benchmark in KNOWN.values()}
    for skill in (
        "arithmetic",
        "logical",
        "word manipulation",
        "in-context",
        "reading",
        "code",
        "translation",
        "word problems",
        "knowledge",
    ):
        assert any(skill in found for found in skills), skill


# --- answers by another way of computing them ---


def test_a_cipher_is_told_by_its_examples_alone() -> None:
    for problem in KNOWN["cipher"].load(60, 0):
        *examples, asked = problem.question.split(" ")
        code = {a: b for pair in examples for a, b in zip(*pair.split(">"), strict=True)}
        assert "".join(code[letter] for letter in asked.rstrip(">")) == problem.answer
        assert len(examples) == problem.difficulty and not any(e.startswith(asked) for e in examples)


def test_a_passage_leads_from_who_is_asked_to_the_place() -> None:
    for problem in KNOWN["passages"].load(60, 0):
        follows = dict(re.findall(r"(\w+) is (?:with|in the) (\w+)\.", problem.question))
        who, hops = problem.question.rsplit(" ", 1)[1].rstrip("?"), 0
        while who in follows:
            who, hops = follows[who], hops + 1
        assert (who, hops) == (problem.answer, problem.difficulty)
        assert len(re.findall("is in the", problem.question)) == CHAINS


def test_a_meeting_is_asked_after_in_words_that_are_told_and_a_sentence_answers_too() -> None:
    kinds = Counter()
    for problem in KNOWN["meetings"].load(60, 0):
        *told, question = re.split(r"(?<=\.) (?=On |Who |What |Where )", problem.question)
        facts = [re.fullmatch(r"On (\w+), (\w+) met (\w+) in the (\w+) and gave \3 a (\w+)\.", sentence).groups() for sentence in told]
        (fact,) = [f for f in facts if (f[4] if question.startswith("Who") else f[1]) in question and f[2] in question]
        day, giver, taker, place, thing = fact
        assert problem.answer == {"On": day, "Where": place, "What": thing, "Who": giver}[question.split(" ")[0]]
        assert len(facts) == problem.difficulty
        for answer, right in ((f"{giver} gave {taker} a {thing}.", question.split(" ")[0] in ("What", "Who")), (f"{taker}", False)):
            assert grade("f1", f" {answer}", problem, truncated=False).correct == right
        kinds[question.split(" ")[0]] += 1
    assert len(kinds) == 4


def test_whereabouts_are_said_once_and_the_letter_is_that_of_the_place() -> None:
    letters = Counter()
    for problem in KNOWN["whereabouts"].load(80, 0):
        told, *options = problem.question.split("\n")
        where = dict(re.findall(r"(\w+) is in the (\w+)\.", told))
        asked = told.rsplit(" ", 1)[1].rstrip("?")
        shown = dict(option.split(") ") for option in options)
        assert list(shown.values()) == list(problem.choices) and set(where.values()) <= set(problem.choices)
        assert shown[problem.answer] == where[asked] and len(where) == problem.difficulty and len(set(problem.choices)) == 4
        letters[problem.answer] += 1
    assert set(letters) == set("ABCD") and max(letters.values()) < 40, "no letter is right much more often than another"


def test_a_translation_can_be_read_back() -> None:
    english = {v: k for k, v in (NOUNS | ADJECTIVES | VERBS).items()}
    assert len(english) == len(NOUNS) + len(ADJECTIVES) + len(VERBS)
    for problem in KNOWN["toy-translation"].load(60, 0):
        *words, verb = problem.answer.split()
        second = next(i for i, word in enumerate(words) if word.endswith("n") and word[:-1] in NOUNS.values())
        phrases = [words[:second], [words[second][:-1], *words[second + 1 :]]]
        subject, obj = (" ".join(["the", *(english[w] for w in phrase[1:]), english[phrase[0]]]) for phrase in phrases)
        assert problem.question == f"{subject} {english[verb]} {obj}"
        assert len(problem.answer.split()) == problem.difficulty


def test_hidden_tests_tell_a_function_from_one_that_leaves_out_a_step() -> None:
    """Not always (a step may do nothing after another), but mostly; and credit falls with what is wrong."""
    found = KNOWN["functions"].load(24, 0)
    told = 0
    for problem in found:
        *head, _last_step, end = problem.answer.rstrip().split("\n")
        result = grade("code", "\n".join([*head, end]), problem, truncated=False)
        told += not result.correct
        assert 0 <= result.partial <= 1
        hidden = json.loads(problem.metadata)
        assert not any(str(call[0]) in problem.question for call in hidden["calls"] if len(call[0]) > 1)
    assert told >= 20


def test_partial_credit_of_each_new_skill_is_a_slope() -> None:
    passage, toy, cipher = (KNOWN[name].load(8, 0)[-1] for name in ("passages", "toy-translation", "cipher"))
    assert grade("f1", f"in the old {passage.answer}", passage, False).partial == pytest.approx(2 / 4)
    words = toy.answer.split()
    near, far = (grade("chrf", " ".join(some), toy, False).partial for some in (words[:-1], words[:1]))
    assert 1 > near > far > 0
    assert grade("exact", cipher.answer[:2] + "z", cipher, False).partial == pytest.approx(2 / 3)


# --- declarations ---

GYM = {"skill": "s", "dataset": "spell_backward", "levels": [3, 4], "varies": ["min_word_len", "max_word_len"], "mean_prompt_tokens": 9}


def gym(**changes: object) -> Benchmark:
    declared = GymBenchmark.model_validate_json(json.dumps({**GYM, **changes}))
    return benchmarks(CATALOGUE.model_copy(update={"gym": {"mine": declared}}))["mine"]


def test_a_level_without_its_chance_is_an_error() -> None:
    fields = {**GYM, "levels": (3, 4), "varies": ("min_word_len", "max_word_len")}
    assert GymBenchmark.model_validate({**fields, "chance": {3: 0.5, 4: 0.25}}).chance == {3: 0.5, 4: 0.25}
    for chance in ({3: 0.5}, {3: 0.5, 4: 0.1, 5: 0.0}, {3: 0.5, 4: 1.0}):
        with pytest.raises(ValueError, match=r"chance"):
            GymBenchmark.model_validate({**fields, "chance": chance})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "spell_backwards"}, "has no 'spell_backwards'. Did you mean 'spell_backward'"),
        ({"dataset": "countdown"}, "runs the answer as code"),
        ({"varies": ["max_word_length"]}, "has no setting 'max_word_length'. Did you mean 'max_word_len'"),
        ({"settings": {"words": 3}}, "has no setting 'words'"),
        ({"levels": [-1]}, "refuses level -1"),
        ({"dataset": "knights_knaves", "levels": [40], "varies": ["depth_constraint"], "settings": {"n_people": -3}}, "refuses level 40"),
    ],
)
def test_an_impossible_dataset_is_one_clear_error(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said).replace("\\ ", " ")):
        gym(**changes).load(2, 0)


def test_what_changes_the_problems_changes_the_identity() -> None:
    different = [
        {},
        {"levels": [3, 5]},
        {"settings": {"data_file": "words.txt"}},
        {"dataset": "letter_counting"},
        {"varies": ["max_word_len"]},
    ]
    identities = [gym(**changes).identity(0) for changes in different]
    assert len(set(identities)) == len(different)
    assert gym(mean_prompt_tokens=10, skill="other", chance=0.5).identity(0) == identities[0]


def test_generated_skills_need_a_number_and_end_when_they_are_used_up() -> None:
    with pytest.raises(ConfigError, match="say how many"):
        gym().load(None, 0)
    with pytest.raises(ConfigError, match=r"level 2 has hardly more than \d+ held-out problems"):
        list(held_out_drafts(dataclasses.replace(SKILLS["functions"], draw=lambda rng, _: Draft(str(rng.randrange(90)), "", "")), 2, 0))


def test_a_prompt_without_the_question_is_an_error(tmp_path: Path) -> None:
    mine = str(tmp_path / "mine")  # an absolute path wins over the folder of prompts
    for text, holds in (
        ("Answer!", False),
        ("{{ choices }}", False),
        ("question:", False),
        ("{{ question }}", True),
        ("{{question|trim}}", True),
        ("{% for i in range(2) %}{{ loop.index }} {{ choices[i] }} {{ question }}{% endfor %}", True),
    ):
        (tmp_path / "mine.jinja").write_text(text)
        if holds:
            assert prompt_text(mine) == text
        else:
            with pytest.raises(ConfigError, match="leaves out the question"):
                prompt_text(mine)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ questoin }} {{ question }}", r"mine.jinja: unknown name 'questoin'. Did you mean 'question'\?"),
        ("Think.\n{{ question", r"mine.jinja, line 2: unexpected end of template"),
        (
            "{% for e in examples %}{{ e.question }}{% endfor %}{{ question }}{{ e }}",
            r"unknown name 'e'. Valid: choices, examples, question",
        ),
    ],
)
def test_a_prompt_that_cannot_be_filled_in_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.jinja").write_text(text)
    with pytest.raises(ConfigError, match=said):
        prompt_text(str(tmp_path / "mine"))


def test_examples_need_a_prompt_that_shows_them() -> None:
    fields = {"name": "x", "asks": "?", "models": ["ladder-21k"], "benchmarks": {"sums": {"problems": 5}}, "prompt": "question"}
    fields |= {"thinking_budgets": [0], "num_samples": 1, "answer_tokens": 9}
    extents = {n: b.extent for n, b in KNOWN.items()}
    with pytest.raises(
        ConfigError, match=r"examples: found 2; the prompt 'question' of sums shows none. Take .*\(here: few-shot, few-shot-bare"
    ):
        load_experiment(fields | {"examples": [0, 2]}, CATALOGUE, extents)
    for asked in ({"examples": [0]}, {"examples": [0, 2], "prompt": "few-shot"}):
        load_experiment(fields | asked, CATALOGUE, extents)


@pytest.mark.parametrize("name", KNOWN)
def test_every_benchmark_can_be_named_in_an_experiment(name: str) -> None:
    fields = {"name": "x", "asks": "?", "models": ["qwen3-0.6b"], "benchmarks": {name: {"problems": 5}}}
    config = load_experiment(
        fields | {"thinking_budgets": [0], "num_samples": 1, "answer_tokens": 9}, CATALOGUE, {n: b.extent for n, b in KNOWN.items()}
    )
    assert list(config.benchmarks) == [name]


def test_what_the_graders_need_is_there() -> None:
    check_graders(benchmark.grader for benchmark in KNOWN.values())
