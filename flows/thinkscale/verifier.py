"""A small verifier for the ladder: reads question, thinking and answer, and says how likely the answer is right.

Why: choosing the best of k by a learned score is a way to sample more that needs no oracle; it can be tried anywhere only if a verifier
ships with the models. It starts from a size of the ladder with a head in place of the output matrix, and learns from answers that several
sizes and checkpoints gave to training problems, cut at random budgets. The grader judges the last token, by which answers are scored; the
tokens before it are judged, too, by whether all is still as the worked solution has it (step by step, Lightman et al. 2023,
arXiv:2305.20050): the ladder is taught one way to think, and the outcome alone says too little in so few minutes.
What it does not do: say how good it is (see `examination`), serve (see `scoring`: any reward model of the catalogue goes the same way), see
a held-out problem in training. torch and transformers are imported where used.
"""

import itertools
import json
import logging
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thinkscale.grading import grade
from thinkscale.inference import Floats
from thinkscale.ladder import forward, tokenizer
from thinkscale.problems import Draft, Generated, Problem, training_draft
from thinkscale.teaching import ASSISTANT, CLOSE, END, FIRST, OPEN, PAD, USER, Ladder

log = logging.getLogger(__name__)

FOLDER = FIRST.folder / "verifier"
THINKING, ANSWER = 40, 8
"""Caps of what is drawn, as in the ladder's experiments."""


@dataclass(frozen=True)
class Course:
    """What the verifier learns from, and how."""

    start: str = "100k"
    """The size whose weights it starts from."""
    teachers: tuple[str, ...] = ("21k", "46k", "100k-step1125", "100k-step2250", "100k", "215k-step1125")
    """Checkpoints of the ladder whose answers it reads."""
    problems: int = 400
    """For each of them, of the ladder's mix of skills."""
    samples: int = 4
    """Traces of one problem; each is answered at a random budget and at the largest."""
    steps: int = 220
    batch: int = 64
    micro_batch: int = 32
    warmup: int = 20
    learning_rate: float = 2e-3
    compile: bool = False
    """Compiling takes longer than these steps, above all on a busy machine."""


class Reading(NamedTuple):
    """One answer as the verifier reads it."""

    ids: list[int]
    """Question, thinking, close and answer, without the end."""
    right: bool
    judged: list[float]
    """Of each token: 1 while thinking, and then the answer, is as the worked solution has it, 0 from the first that is not, -1 for those
    that are not judged; of the last token, whether the answer is right."""
    model: str
    question: str
    budget: int


def answered(model: Any, name: str, drawn: Sequence[tuple[Generated, Draft]], budgets: Sequence[Sequence[int]]) -> list[Reading]:
    """One thinking trace for each draft, answered at each of its budgets: what the pipeline draws, by transformers alone.

    Args:
        model: a causal model of the first ladder.
        name: of the model.
        drawn: skill and problem of each trace.
        budgets: caps on thinking of each trace.
    """
    prompts = [[USER, *FIRST.encode(draft.question), ASSISTANT, OPEN] for _, draft in drawn]
    asked, about = [], []
    for prompt, trace, caps, of in zip(prompts, _continued(model, prompts, THINKING + 1), budgets, drawn, strict=True):
        for cap in caps:
            asked.append([*prompt, *trace[:cap], CLOSE])
            about.append((of, cap))
    found = []
    for ids, answer, ((skill, draft), cap) in zip(asked, _continued(model, asked, ANSWER), about, strict=True):
        problem = Problem("drawn", "drawn", draft.question, draft.answer, 0.0, metadata=draft.metadata)
        right = grade(skill.grader, _text(FIRST, answer), problem, truncated=len(answer) == ANSWER).correct
        found.append(Reading([*ids, *answer], right, _judged(draft, ids, answer, right), name, draft.question, cap))
    return found


def _judged(draft: Draft, before: Sequence[int], answer: Sequence[int], right: bool) -> list[float]:
    opened = before.index(OPEN) + 1
    labels = [-1.0] * opened
    for said, wanted in ((before[opened:-1], FIRST.encode(draft.worked)), (answer, FIRST.encode(draft.answer))):
        same = [a == b for a, b in itertools.zip_longest(said, wanted[: len(said)])]
        labels += [float(all(same[: i + 1])) for i in range(len(same))]
        labels += [-1.0] if said is not answer else []  # the close says nothing
    return [*labels[:-1], float(right)]


def _continued(model: Any, prompts: Sequence[Sequence[int]], most: int, at_once: int = 512) -> Iterator[list[int]]:
    """What the model draws after each prompt at temperature 1, up to its close or end, without that."""
    import torch

    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        width = max(map(len, some))
        ids = torch.tensor([[PAD] * (width - len(p)) + list(p) for p in some])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in some])
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        with torch.no_grad():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=most, eos_token_id=[END, CLOSE], pad_token_id=PAD, **law)
        for row in out[:, width:].tolist():
            yield list(itertools.takewhile(lambda token: token not in (END, CLOSE), row))


def _text(ladder: Ladder, ids: Sequence[int]) -> str:
    names = {i: token for token, i in ladder.vocabulary.items()}
    return "".join(names[i] for i in ids)


def lessons(course: Course, seed: int = 0) -> list[Reading]:
    """What is read in training, in random order: every teacher's answers to training problems, each trace at two random budgets."""
    rng, found, mix = random.Random(f"verifier/{seed}"), list[Reading](), FIRST.lessons[0].mix
    fix_seed(seed)
    for teacher in course.teachers:
        skills = rng.choices(list(mix), weights=list(mix.values()), k=course.problems)
        drawn = [(FIRST.skills[s], training_draft(FIRST.skills[s], rng)) for s in skills]
        each = [of for of in drawn for _ in range(course.samples)]
        budgets = [[rng.randrange(0, THINKING, 2), THINKING] for _ in each]
        found += answered(checkpoint(teacher), teacher, each, budgets)
        log.info("verifier: %s answers, %.0f %% right", f"{len(found):,}", 100 * float(np.mean([r.right for r in found])))
    rng.shuffle(found)
    return found


def checkpoint(name: str) -> Any:
    """A causal model of the first ladder in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FIRST.folder / name, dtype=torch.float32).eval()


def train(course: Course, out: Path = FOLDER, rows: Sequence[Reading] = ()) -> Path:
    """Train the verifier and write its checkpoint, which transformers and vLLM (`--runner pooling`) load. Returns its folder.

    Args: rows: what it reads; none: `lessons` are drawn.
    """
    import torch
    from transformers import LlamaForSequenceClassification

    started = time.process_time()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    rows = list(rows) or lessons(course)
    fix_seed(0)
    model = LlamaForSequenceClassification.from_pretrained(FIRST.folder / course.start, num_labels=1, dtype=torch.float32)
    model.config.id2label, model.config.label2id = {0: "right"}, {"right": 0}
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    hidden, recent, read = forward(model, course.compile), list[float](), itertools.cycle(rows)
    for step in range(course.steps):
        rate = course.learning_rate * min(1.0, (step + 1) / course.warmup, max(0.02, 1.3 * (1 - step / course.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        recent.append(_learn(model, hidden, optimizer, [next(read) for _ in range(course.batch)], course.micro_batch))
        if (step + 1) % 50 == 0:
            log.info("verifier: step %d, loss %.4f, %.0f s of CPU", step + 1, float(np.mean(recent[-50:])), time.process_time() - started)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer(FIRST).save_pretrained(out)
    told = {
        **asdict(course),
        "answers": len(rows),
        "tokens": sum(len(r.ids) for r in rows),
        "right": float(np.mean([r.right for r in rows])),
    }
    told |= {"cpu_seconds": round(time.process_time() - started), "last_loss": float(np.mean(recent[-50:]))}
    (out / "training.json").write_text(json.dumps(told, indent=2) + "\n")
    return out


def _learn(model: Any, hidden: Any, optimizer: Any, rows: list[Reading], size: int) -> float:
    """One step on the judgements of all tokens and, as much again, on those of the last; returns the latter's mean loss in nats."""
    import torch

    nats = torch.nn.functional.binary_cross_entropy_with_logits
    rows, total = sorted(rows, key=lambda r: len(r.ids)), 0.0
    count = sum(sum(label >= 0 for label in r.judged) for r in rows)
    optimizer.zero_grad()
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        logits, width = _logits(model, hidden, some), max(len(r.ids) for r in some)
        judged = torch.tensor([r.judged + [-1.0] * (width - len(r.ids)) for r in some])
        last = logits[torch.arange(len(some)), _ends_at(some)]
        outcome = nats(last, torch.tensor([float(r.right) for r in some]), reduction="sum") / len(rows)
        (outcome + nats(logits[judged >= 0], judged[judged >= 0], reduction="sum") / count).backward()
        total += outcome.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return total


def _logits(model: Any, hidden: Any, rows: Sequence[Reading]) -> Any:
    """The head's output at every token of each row, padded on the right."""
    import torch

    width = max(len(r.ids) for r in rows)
    return model.score(hidden(torch.tensor([r.ids + [PAD] * (width - len(r.ids)) for r in rows])))[:, :, 0]


def _ends_at(rows: Sequence[Reading]) -> Any:
    import torch

    return torch.tensor([len(r.ids) - 1 for r in rows])


def scores(rows: Sequence[Reading], folder: Path = FOLDER, at_once: int = 256) -> Floats:
    """What the shipped verifier says of each row: P(right)."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found = np.zeros(len(rows))
    with torch.no_grad():
        for start in range(0, len(rows), at_once):
            some = order[start : start + at_once]
            read = [rows[i] for i in some]
            logits = _logits(model, forward(model, False), read)
            found[some] = torch.sigmoid(logits[torch.arange(len(read)), _ends_at(read)]).numpy()
    return found


def fix_seed(seed: int) -> None:
    """Of what is drawn next."""
    import torch

    torch.manual_seed(seed % 2**31)
