"""Train the small model ladder: python flows/train_ladder.py [--size 100k] [--steps 4500]; goes on where it stopped."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

console.settle_prefect()

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402

from thinkscale import card, ladder  # noqa: E402
from thinkscale.plan import RESULTS  # noqa: E402


@task(task_run_name="train {size}", cache_policy=NO_CACHE, persist_result=False)
def train_size(size: str, steps: int, out: Path) -> Path:
    """Train one size to the end."""
    return ladder.train(size, ladder.Recipe(steps=steps), RESULTS / "ladder-training" / str(steps), out=out)


@task(cache_policy=NO_CACHE, persist_result=False)
def write_card(out: Path) -> Path:
    """Model card and, for the shipped ladder, its entries in the catalogue."""
    found = card.checkpoints(out)
    if out == ladder.LADDER:
        card.write_catalogue(found)
    return card.write_card(found, out)


@flow(name="train-ladder", persist_result=False)
def train_ladder(size: str | None = None, steps: int = ladder.Recipe.steps, out: str = str(ladder.LADDER)) -> None:
    """Train one size or all; a killed run goes on from its last saved step.

    Args:
        size: one of 10k, 21k, 46k, 100k, 215k, 464k, 1m; None: all.
        steps: training steps.
        out: where checkpoints go.
    """
    for one in [size] if size else list(ladder.SIZES):
        train_size(one, steps, Path(out))
    write_card(Path(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(ladder.SIZES), help="one size (default: all)")
    parser.add_argument("--steps", type=int, default=ladder.Recipe.steps)
    parser.add_argument("--out", default=str(ladder.LADDER), help="where checkpoints go (default: flows/ladder)")
    arguments = parser.parse_args()
    console.log_to_terminal()
    train_ladder(arguments.size, arguments.steps, arguments.out)
