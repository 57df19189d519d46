"""Loss of a model on a text, teacher-forced by the engine: nats per token, bits per byte.

Why: loss falls smoothly with size while skills seem to jump; the two can only be set against each other when both were measured on the
same weights. Bits per byte compare models whose tokenizers differ, nats per token do not.
What it does not do: fit anything over size (see `scaling`), or score what the models themselves said.

A text is a plain file, one document, or JSON lines with `text` and optionally `prompt` (read, not scored) and `bytes` (what the text counts
for where it holds a tokenizer's own markup). Long documents go in windows: every token but those of the first half window is scored with at
least half a window before it.
"""

import asyncio
import hashlib
import json
import math
from collections.abc import Coroutine, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa

from thinkscale.config import FLOWS, ConfigError, Engine, Loss, Model, digest
from thinkscale.endpoint import Client
from thinkscale.plan import Study
from thinkscale.prompting import check_alphabet
from thinkscale.schema import TABLES
from thinkscale.store import Store
from thinkscale.weights import model_revision

T = TypeVar("T")

PROMPTS_AT_ONCE = 16
"""In one request: each brings back a log-probability for every token."""


class Document(NamedTuple):
    """What is scored, after what."""

    prompt: str
    text: str
    bytes: int


class Windowed(NamedTuple):
    """A stretch of a document as it is sent, and from which of its tokens on it is scored."""

    ids: list[int]
    scored_from: int


def documents(loss: Loss) -> tuple[Document, ...]:
    """The documents of a text. Raises ConfigError naming the line that is not one."""
    path = _path(loss)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError(f"loss.text: {path} is not text in UTF-8 ({e.reason} at byte {e.start}). Give a plain file or JSON lines.") from e
    if path.suffix != ".jsonl":
        found = [Document("", text, len(text.encode()))]
    else:
        found = [_document(path, number, line) for number, line in enumerate(text.splitlines(), 1)]
    if not any(d.text for d in found):
        raise ConfigError(f"loss.text: {path} is empty.")
    return tuple(found)


def part_name(loss: Loss, model: Model) -> str:
    """Name of the part: the same weights, text and context have the same."""
    return digest([model_revision(model), text_hash(loss), loss.context])


def text_hash(loss: Loss) -> str:
    """16 hex digits of the text file's content. Raises ConfigError where it is not there."""
    return hashlib.sha256(_path(loss).read_bytes()).hexdigest()[:16]


def is_owed(study: Study, name: str) -> bool:
    """Whether the experiment asks for a loss of this model that is not on disk."""
    loss = study.config.loss
    return loss is not None and study.store.read_part("loss", part_name(loss, study.catalogue.models[name])).num_rows == 0


def measured(study: Study) -> pd.DataFrame:
    """The rows that the experiment asks for (a folder may hold losses on another text, or of other weights), smallest model first."""
    loss, models = study.config.loss, [study.catalogue.models[name] for name in study.config.models]
    parts = [] if loss is None else [study.store.read_part("loss", part_name(loss, model)) for model in models]
    found: pd.DataFrame = pa.concat_tables([TABLES["loss"].arrow.empty_table(), *parts]).to_pandas()
    return found.sort_values(["params", "model"], ignore_index=True)


def outlook(study: Study) -> str:
    """What the loss will cost, for `--plan`; empty where none is asked for. Raises ConfigError where the text is not one."""
    if study.config.loss is None:
        return ""
    found, owed = documents(study.config.loss), sum(is_owed(study, name) for name in study.config.models)
    size = sum(len(d.prompt.encode()) + len(d.text.encode()) for d in found)
    return f"loss: {study.config.loss.text}, {size:,} bytes in {len(found):,} documents, to be read once by {owed} models"


async def measure(store: Store, loss: Loss, model: Model, engine: Engine, client: Client) -> float:
    """Score the text and publish the row. Returns bits per byte. Raises what the client raises, ConfigError."""
    await check_alphabet(client, model.name, f"loss.text, {loss.text}", [d.text for d in documents(loss)])
    size, places = min(loss.context, model.context - 1), asyncio.Semaphore(max(1, engine.concurrency // PROMPTS_AT_ONCE))

    async def read(document: Document) -> tuple[list[Windowed], int, int, int]:
        async with places:
            before = await client.tokenize(document.prompt, add_special_tokens=True)
            ids = await client.tokenize(document.text)
            first = not before and bool(ids)  # nothing stands before it that it could be told from
            without = len((await client.detokenize(ids[:1])).encode()) if first else 0
        return windows(before, ids, size), len(ids) - first, int(first), document.bytes - without

    found = await _all(read(document) for document in documents(loss))
    pieces = [piece for row in found for piece in row[0]]
    tokens, unscored, byte_count = sum(row[1] for row in found), sum(row[2] for row in found), sum(row[3] for row in found)
    if not tokens:
        raise ConfigError(f"loss.text: {loss.text} has no token that could be scored.")

    async def score(some: list[Windowed]) -> float:
        async with places:
            found = await client.score([piece.ids for piece in some])
        return -sum(math.fsum(values[piece.scored_from - 1 :]) for piece, values in zip(some, found, strict=True))

    nats = math.fsum(await _all(score(pieces[i : i + PROMPTS_AT_ONCE]) for i in range(0, len(pieces), PROMPTS_AT_ONCE)))
    row = {
        "model": model.name,
        "params": model.params,
        "params_active": model.params_active,
        "params_non_embedding": model.params_non_embedding,
        "model_revision": model_revision(model),
        "text": loss.text,
        "text_hash": text_hash(loss),
        "context": size,
        "tokens": tokens,
        "unscored_tokens": unscored,
        "bytes": byte_count,
        "nats": nats,
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / math.log(2) / byte_count,
        "engine": client.endpoint.engine,
    }
    store.publish("loss", part_name(loss, model), [row])
    return nats / math.log(2) / byte_count


def windows(before: list[int], ids: list[int], size: int) -> list[Windowed]:
    """Stretches of `size` tokens at most that together score every token of `ids` once, but one that nothing stands before.

    Raises: ConfigError where the prompt leaves no room.
    """
    whole, scored = [*before, *ids], max(1, len(before))
    if len(before) >= size and ids:
        raise ConfigError(f"loss: a prompt of {len(before)} tokens leaves no room in a context of {size}.")
    ends = [scored, *range(size, len(whole), max(1, size // 2)), len(whole)]
    found = []
    for done, end in pairwise(ends):
        if end > done:
            begin = max(0, end - size)
            found.append(Windowed(whole[begin:end], done - begin))
    return found


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Side by side; the first failure, if there is one, and then none goes on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


def _document(path: Path, number: int, line: str) -> Document:
    where = f"loss.text: {path.name}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise ConfigError(f"{where}: not JSON ({e}).") from e
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or set(row) - {"prompt", "text", "bytes"}:
        raise ConfigError(f"{where}: found {line[:80]}; an object with `text`, and if need be `prompt` and `bytes`.")
    return Document(str(row.get("prompt", "")), row["text"], int(row.get("bytes", len(row["text"].encode()))))


def _path(loss: Loss) -> Path:
    path = FLOWS / loss.text
    if not path.is_file():
        raise ConfigError(f"loss.text: no file {path}. Give a path, absolute or from flows/.")
    return path
