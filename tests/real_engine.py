"""A real vLLM server with a trained model of the ladder, for tests: how it is started and asked.

Why: an engine start is most of a minute on two cores, so that `make test` has five at most: one for all tests that only ask (conftest), one
more for test_engine_proof (it needs a second seed), three for test_smoke_vllm (two models, the second killed and started again).
What it does not do: start anything by itself.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from thinkscale.config import Engine
from thinkscale.endpoint import Client
from thinkscale.evaluate import engine_seed
from thinkscale.generate import Generator, Room
from thinkscale.plan import owed_shards
from thinkscale.prompting import boundary
from thinkscale.routes import native_flags
from thinkscale.serving import serve
from thinkscale.shards import run_shard

MODEL = "ladder-100k"
ENGINE = Engine(start_timeout=600.0, request_timeout=300.0, concurrency=256)
ANSWER_TOKENS = 8
RAISED = {
    "name": "raised",
    "asks": "Does an engine that starts again draw the same samples again?",
    "models": [MODEL],
    "benchmarks": {"sums": {"problems": 40}},
    "thinking_budgets": [40],
    "num_samples": 1,
    "answer_tokens": ANSWER_TOKENS,
    "sampling": {"temperature": 2.0},  # vLLM's largest: two draws are seldom equal by chance
}


@contextmanager
def serving_owed(study, logs) -> Iterator:
    """Serve the model with the seed that a sweep of this study would give it, and draw what is owed before anything else is asked.

    One sequence at a time: then a second engine of the same seed would draw the very same (side by side, batches differ by timing).
    """
    shards = owed_shards(study, MODEL)
    model, seed = study.catalogue.models[MODEL], engine_seed(study, MODEL, shards)
    served = model.model_copy(update={"engine_args": native_flags(model)})  # for test_routes_vllm; changes nothing for the others
    with serve(served, ENGINE, logs, seed=seed, device="cpu", on_progress=print) as endpoint:

        async def draw():
            async with Client(endpoint) as client:
                generator = await make_generator(client, model, study.config.sampling, room=1)
                for shard in shards:
                    await run_shard(shard, generator, study.store)

        asyncio.run(draw())
        yield endpoint


async def make_generator(client, model, sampling, room=ENGINE.concurrency, **how):
    """Draws as `evaluate` does, with so many sequences in flight."""
    return Generator(client, model, await boundary(client, model), sampling, ENGINE, ANSWER_TOKENS, Room(room), **how)
