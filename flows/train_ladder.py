"""Train a small model ladder: python flows/train_ladder.py [--ladder many] [--size 121k]; goes on where it stopped.

With --verifier: the verifier that scores the first ladder's answers, ten minutes on one core; from the start each time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

console.settle_prefect()

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402

from thinkscale import card, examination, verifier  # noqa: E402
from thinkscale.ladder import Recipe, train  # noqa: E402
from thinkscale.plan import RESULTS  # noqa: E402
from thinkscale.teaching import FIRST, LADDERS, Ladder, Size  # noqa: E402


@task(task_run_name="train {size.model}", cache_policy=NO_CACHE, persist_result=False)
def train_size(size: Size, steps: int, out: Path) -> Path:
    """Train one size to the end."""
    return train(size, Recipe(steps=steps), RESULTS / f"{size.ladder.name}-training" / str(steps), out=out)


@task(cache_policy=NO_CACHE, persist_result=False)
def write_card(ladder: Ladder, out: Path) -> Path:
    """Model card and, for a shipped ladder, its entries in the catalogue."""
    found = card.checkpoints(ladder, out)
    if out == ladder.folder:
        card.write_catalogue(ladder, found)
    return card.write_card(ladder, found, out)


@task(cache_policy=NO_CACHE, persist_result=False)
def read_and_examine(out: Path) -> Path:
    """Train the verifier, measure it on held-out problems, write its card."""
    return examination.examine(verifier.train(verifier.Course(), out))


@flow(name="train-verifier", persist_result=False)
def train_verifier(out: str | None = None) -> None:
    """Train the first ladder's verifier.

    Args: out: where its checkpoint goes; None: where it ships.
    """
    read_and_examine(Path(out) if out else verifier.FOLDER)


@flow(name="train-ladder", persist_result=False)
def train_ladder(ladder: str = FIRST.name, size: str | None = None, steps: int | None = None, out: str | None = None) -> None:
    """Train one size or all; a killed run goes on from its last saved step.

    Args:
        ladder: which, of `teaching.LADDERS`.
        size: one of its sizes; None: all.
        steps: training steps; None: as the shipped ones.
        out: where checkpoints go; None: where they ship.
    """
    chosen = LADDERS[ladder]
    folder = Path(out) if out else chosen.folder
    for one in [size] if size else list(chosen.sizes):
        train_size(Size(chosen, one), steps or chosen.steps, folder)
    write_card(chosen, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ladder", choices=list(LADDERS), default=FIRST.name, help="which ladder (default: %(default)s)")
    parser.add_argument("--size", help="one size, such as 100k (default: all)")
    parser.add_argument("--steps", type=int, help="training steps (default: as the shipped ones)")
    parser.add_argument("--out", help="where checkpoints go (default: flows/<ladder>)")
    parser.add_argument("--verifier", action="store_true", help="train the verifier of the first ladder instead")
    arguments = parser.parse_args()
    if arguments.size and arguments.size not in LADDERS[arguments.ladder].sizes:
        parser.error(f"--size: {arguments.ladder} has no {arguments.size}; it has {', '.join(LADDERS[arguments.ladder].sizes)}.")
    console.log_to_terminal()
    if arguments.verifier:
        train_verifier(arguments.out)
        sys.exit()
    train_ladder(arguments.ladder, arguments.size, arguments.steps, arguments.out)
