"""A ladder's model card and its entries in the catalogue, made from what training wrote.

Why: numbers typed in twice drift. What it does not do: train (`ladder`).
"""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from thinkscale import cost
from thinkscale.config import CATALOGUE, Shape
from thinkscale.ladder import shape, trained, training_flops
from thinkscale.teaching import Ladder, Size, held_out, held_out_problems

BEGIN, FINISH = "  # === ships with the project: the ladder {name} ===\n", "  # === end of the ladder {name} ===\n"


class Checkpoint(NamedTuple):
    """One trained checkpoint."""

    model: str
    size: Size
    folder: str
    tokens: int
    bits_per_byte: float
    held_out_loss: float

    @property
    def shape(self) -> Shape:
        """Dimensions."""
        return shape(self.size)

    @property
    def training_flops(self) -> float:
        """6ND."""
        return training_flops(self.size, self.tokens)


def checkpoints(ladder: Ladder, out: Path | None = None) -> list[Checkpoint]:
    """Finished checkpoints by size, each after its intermediate ones."""
    found, out = [], out or ladder.folder
    for size in trained(ladder, out):
        with (out / size.name / "loss.csv").open() as f:
            history = {int(row["step"]): row for row in csv.DictReader(f)}
        last = max(history)
        kept = sorted(int(p.name.rsplit("-step", 1)[1]) for p in out.glob(f"{size.name}-step*"))
        for step in [*(s for s in kept if s in history and s != last), last]:
            row, of = history[step], "" if step == last else f"-step{step}"
            bits = bits_per_byte(ladder, float(row["held_out_nats"]))
            found.append(Checkpoint(size.model + of, size, size.name + of, int(row["tokens"]), bits, float(row["held_out_loss"])))
    return found


def write_catalogue(ladder: Ladder, found: list[Checkpoint], path: Path = CATALOGUE) -> None:
    """Replace a ladder's section of `models.yaml`. Raises ValueError where its marks are missing."""
    text, begin, finish = path.read_text(), BEGIN.format(name=ladder.name), FINISH.format(name=ladder.name)
    if begin not in text or finish not in text:
        raise ValueError(f"{path}: the marks around the ladder's section are missing: {begin.strip()!r} and {finish.strip()!r}.")
    head, rest = text.split(begin, 1)
    _, tail = rest.split(finish, 1)
    path.write_text(head + begin + "".join(_entry(c) for c in found) + finish + tail)


def _entry(checkpoint: Checkpoint) -> str:
    counts = cost.parameters(checkpoint.shape)
    shape = {k: v for k, v in checkpoint.shape.model_dump().items() if v != Shape.model_fields[k].default}
    lines: dict[str, Any] = {
        "family": checkpoint.size.ladder.name,
        "source": f"{checkpoint.size.ladder.name}/{checkpoint.folder}",
        "params": counts.total,
        "params_active": counts.active,
        "params_non_embedding": counts.non_embedding,
        "shape": "{" + ", ".join(f"{k}: {str(v).lower()}" for k, v in shape.items()) + "}",
        "context": checkpoint.size.ladder.context,
        "training_tokens": checkpoint.tokens,
        "bits_per_byte": round(checkpoint.bits_per_byte, 4),
        "thinking": '{open: "<think>", close: "</think>"}',
    }
    return f"  {checkpoint.model}:\n" + "".join(f"    {key}: {value}\n" for key, value in lines.items())


def bits_per_byte(ladder: Ladder, nats: float) -> float:
    """Bits of the held-out completions per byte of their text (thinking and answer)."""
    return nats / math.log(2) / held_out(ladder.name)[1]


def held_out_text(ladder: Ladder) -> str:
    """The held-out examples as JSON lines for `loss`: the question is read, thinking and answer are scored, markup has no bytes.

    What a tool put into the thinking is read too and not scored: the parts before and after it are lines of their own.
    """
    rows: list[dict[str, Any]] = []
    for d in held_out_problems(ladder):
        asked, begun = f"<|user|>{d.question}<|assistant|><think>", 0
        for start, end in d.injected:
            rows.append({"prompt": asked + d.worked[:begun], "text": d.worked[begun:start], "bytes": start - begun})
            begun = end
        written = d.worked[begun:]
        row = {"prompt": asked + d.worked[:begun], "text": f"{written}</think>{d.answer}<|end|>", "bytes": len(written) + len(d.answer)}
        rows.append(row)
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_card(ladder: Ladder, found: list[Checkpoint], out: Path) -> Path:
    """Write the model card."""
    recipe = json.loads((out / found[-1].size.name / "training.json").read_text())
    rows = [
        f"| {c.model} | {cost.parameters(c.shape).total:,} | {c.shape.hidden_size} × {c.shape.num_layers} layers "
        f"| {c.tokens / 1e6:.1f} M | {c.training_flops:.2g} | {c.held_out_loss:.4f} | {c.bits_per_byte:.4f} |"
        for c in found
    ]
    table = "| model | parameters | width | training tokens | training FLOPs (6ND) | held-out nats per token | held-out bits per byte |"
    table += "\n|---|--:|---|--:|--:|--:|--:|\n"
    text = re.sub(
        r"<!-- table -->.*<!-- /table -->",
        lambda _: "<!-- table -->\n" + table + "\n".join(rows) + "\n<!-- /table -->",
        CARD,
        flags=re.DOTALL,
    )
    path = out / "README.md"
    lessons = [", ".join(f"{skill} {share:.0%}" for skill, share in lesson.mix.items()) for lesson in ladder.lessons]
    later = ladder.stretches(recipe["steps"])[1:]
    begins = "".join(f" From step {lesson.begin} on another mix is taught, with a fresh optimizer." for lesson in later)
    told = {
        "name": ladder.name,
        "says": ladder.says,
        "taught": "; then ".join(lessons),
        "begins": begins,
        "held_out": len(held_out_problems(ladder)),
    }
    path.write_text(text.format(steps=recipe["steps"], batch=recipe["batch"], **told))
    return path


CARD = """# The ladder `{name}`: small models that differ in size alone

<!-- table -->
<!-- /table -->

- **What they are.** Llama architecture, heads of 32, tied embeddings, bf16 weights: {says}. Same data in the same order,
  {steps} steps of {batch} sequences, same number of tokens for every size; the learning rate falls with the square root of the
  width.{begins}
  Trained by `flows/train_ladder.py --ladder {name}`.
- **What they were taught.** {taught} of the training examples. Problems are generated without end and never repeat a
  held-out one: a tenth of all questions, decided by a hash, is never trained on, and benchmarks use only those. A fifth of the examples is
  answered at once, 15 % are cut at a random point of the thinking and then answered, so that a forced answer is in distribution; the rest
  think to the end.
- **Held-out loss** is over thinking, close, answer and end of {held_out} held-out problems worked in full; bytes are those of thinking and
  answer.
- **What they are for.** To see emergence over size and thinking against size on any machine. They know nothing else.
- **What they do not show.** Anything about models that were trained on text; the thinking was taught, not discovered. Each size is one
  training run: which skill a size has picked up by the last step is partly luck of that run.
"""
