"""Where a model's weights are, and which they are: every byte counts.

Why: answers belong to the weights that gave them; a folder keeps its name when its content changes.
What it does not do: fetch or read weights for anything else.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from upath import UPath

from thinkscale.config import FLOWS, ConfigError, Model, digest
from thinkscale.files import put

WHOLE = 16 * 2**20
"""Bytes up to which a file of a model is read each time; the hash of a bigger one is remembered."""


def model_revision(model: Model) -> str:
    """Commit on the hub or, for a local folder, a hash of its files. Raises ConfigError where a local folder lacks its weights."""
    folder = FLOWS / model.source
    if not folder.is_dir():
        if model.source.startswith("prepared/"):
            raise ConfigError(f"{model.name} is not on this machine yet. Run: python flows/models.py prepare {model.name}")
        if model.source.startswith((".", "/", "ladder/", "many/")):
            raise ConfigError(
                f"models.yaml: {model.name}: no folder '{model.source}'. Train it (python flows/train_ladder.py) or fix `source`."
            )
        return model.revision or "unpinned"
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"models.yaml: {model.name}: '{model.source}' has no config.json. Train it (python flows/train_ladder.py) or fix `source`."
        )
    hasher = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".jinja", ".model")):
        hasher.update(f"{file.name}:{file.stat().st_size}:".encode())
        if file.stat().st_size <= WHOLE:
            hasher.update(file.read_bytes())
        else:
            hasher.update(_content_hash(file).encode())
    return hasher.hexdigest()[:16]


def _content_hash(file: Path) -> str:
    """SHA-256 of a big file: every byte counts (a fine-tune may leave the first gigabyte as it was), read once for each state of the file.

    What was read is remembered beside the user's other caches by what tells two states apart: place, size, time of change, inode.
    """
    stat = file.stat()
    state = digest([str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    remembered = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinkscale", "weights", state)
    with suppress(OSError):
        if re.fullmatch(r"[0-9a-f]{64}", found := remembered.read_text()):
            return found
    with file.open("rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    with suppress(OSError):  # no home to write in: read again next time
        remembered.parent.mkdir(parents=True, exist_ok=True)
        put(UPath(remembered), found.encode())
    return found


def source_path(model: Model) -> str:
    """What the engine is given as --model: an absolute folder, or the hub name."""
    folder = FLOWS / model.source
    return str(folder) if folder.is_dir() else model.source
