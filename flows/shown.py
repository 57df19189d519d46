"""What Prefect's pages show of an experiment: a table of cells, progress, the plots. Made from disk, every half minute at most.

It is for looking at: where Prefect's API does not answer, or what is done cannot be read, a line is logged and the work goes on.
"""

import asyncio
import base64
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID

import httpx
import pandas as pd
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact

from thinkscale import files
from thinkscale.plan import Study
from thinkscale.status import cells

log = logging.getLogger("thinkscale.shown")

SECONDS = 30.0
PATIENCE = 10.0
T = TypeVar("T")


def key(study: Study, *parts: str) -> str:
    """Key of an artifact: versions of one thing share it. Prefect takes small letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else "-" for c in part.lower()) for part in (study.config.name, *parts))


@asynccontextmanager
async def show_cells(study: Study, model: str | None = None) -> AsyncIterator[None]:
    """While the block runs, keep a progress artifact up to date; at its end, or when it fails, leave the table of cells."""
    whose = model or "all"

    async def mine() -> pd.DataFrame | None:
        try:
            found = await asyncio.to_thread(cells, study)
        except OSError as e:  # who works there says what it means; that we cannot show it must hide nothing
            log.warning("what is done cannot be shown: %s", e)
            return None
        return found if model is None else found[found["model"] == model]

    def share(now: pd.DataFrame) -> float:
        return 100.0 * float(now["done"].sum()) / max(1, int(now["planned"].sum()))

    async def keep(progress: UUID | None) -> None:
        while progress is not None:
            if (now := await mine()) is not None:
                await _tolerated(aupdate_progress_artifact(progress, progress=share(now)))
            await asyncio.sleep(SECONDS)

    progress = await _tolerated(acreate_progress_artifact(progress=0.0, key=key(study, whose, "progress"), description=whose))
    keeper = asyncio.create_task(keep(progress))
    try:
        yield
    finally:
        keeper.cancel()
        going_on = sys.exception() is None or isinstance(sys.exception(), Exception)  # being stopped, every second counts
        if going_on and (now := await mine()) is not None:
            if progress is not None:
                await _tolerated(aupdate_progress_artifact(progress, progress=share(now)))
            table = json.loads(now.to_json(orient="records"))
            await _tolerated(acreate_table_artifact(table, key=key(study, whose, "cells"), description=study.config.asks))


async def show_plots(study: Study) -> None:
    """The plots of an analysis, as pictures in a page."""
    pictures = []
    for path in files.listed(study.store.root / "plots", ".png"):
        data = base64.b64encode(files.read(path)).decode()
        pictures.append(f"![{path.stem}](data:image/png;base64,{data})")
    await _tolerated(acreate_markdown_artifact("\n\n".join(pictures), key=key(study, "plots"), description=study.config.asks))


async def _tolerated(call: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return await call
    except (httpx.HTTPError, TimeoutError) as e:
        log.warning("Prefect's API did not take an artifact (%s: %s)", type(e).__name__, e)
        return None
