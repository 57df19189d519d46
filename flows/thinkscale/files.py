"""Where results are: a folder on a disk or in an object store, behind one interface (pathlib, through universal-pathlib and fsspec).

Why: a killed or doubled writer must leave either a whole file or none, and never replace another's. On a disk a file is written under a dot
name (readers skip those), flushed, and published by a hard link, which fails if the name is taken. In an object store a put is whole by
itself and carries the condition that the name is free. What it does not do: know what is in a file (see `store`), or what a
store's driver raises (see `remote`; here that is an OSError).
"""

import contextlib
import errno
import functools
import os
import re
import uuid
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from upath import UPath

from thinkscale.config import ConfigError
from thinkscale.remote import ask, in_our_words

STALE_SECONDS = 3600.0
"""Age at which a temporary file of another machine counts as abandoned: writing one takes seconds."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_VERSION = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""What fsspec's drivers call what changes with a file's content."""
_TEMPORARY = re.compile(r"^\..+\.(?P<machine>[0-9a-f]+)-(?P<pid>\d+)-(?P<started>\d+)\.[0-9a-f]{12}\.tmp$")


class FilesError(RuntimeError):
    """The place for results cannot do what is needed of it: says what was found and what to do."""


def place(where: str | os.PathLike[str] | UPath) -> UPath:
    """A folder by path or URL. Raises ConfigError for a URL that holds a password or whose driver is not installed, StorageError."""
    if isinstance(where, UPath):
        return where
    text = os.fspath(where)
    if "://" not in text:
        return UPath(text)
    if "@" in urlsplit(text).netloc:
        raise ConfigError("results: a URL must not hold a key or password (it is written to logs): give it in the store's own variables.")
    try:
        with in_our_words(text):
            found = UPath(text, use_listings_cache=False)  # others write there too: what was listed a minute ago is not what is there
            found.fs.protocol  # noqa: B018 (imports the driver)
    except ImportError as e:
        extra = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}.get(urlsplit(text).scheme, "")
        hint = f"pip install 'thinkscale[{extra}]'" if extra else "install the fsspec driver of this kind of store"
        raise ConfigError(f"results: {text}: its driver is not installed ({e}). Do: {hint}.") from e
    except ValueError as e:
        raise ConfigError(f"results: {text}: {e}.") from e
    return found


def absolute(where: str) -> str:
    """A path from the root, for processes that work in other folders; a URL as it is."""
    return where if "://" in where else os.path.abspath(where)


def is_local(path: UPath) -> TypeGuard[Path]:
    """On a disk of this machine or a network filesystem, in contrast to an object store."""
    return isinstance(path, Path)


def put_new(path: UPath, data: bytes) -> bool:
    """Publish a file whole, or lose to one of the same name: then False, and the other stands. Raises OSError, and nothing is left.

    In an object store who loses against the same bytes is told that they are there: true.
    """
    if is_local(path):
        temporary = _write_beside(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)
        return True
    try:
        ask(path, lambda: path.fs.pipe_file(path.path, data, mode="create"))
        return True
    except FileExistsError:  # drivers put again where an answer was lost, and lose against themselves
        with contextlib.suppress(FileNotFoundError):
            return read(path) == data
        return False


def put(path: UPath, data: bytes) -> None:
    """Write or replace a file at once, for what can be made again at any time."""
    if is_local(path):
        temporary = _write_beside(path, data)
        try:
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        ask(path, lambda: path.fs.pipe_file(path.path, data))


def read(path: UPath) -> bytes:
    """A whole file as it is at one moment, though others may replace it meanwhile. Raises FileNotFoundError."""
    if is_local(path):
        return path.read_bytes()
    return bytes(ask(path, lambda: path.fs.cat_file(path.path)))  # `open` asks twice, and fails where another version came in between


def exists(path: UPath) -> bool:
    """Whether a file is there."""
    if is_local(path):
        return path.exists()
    try:
        ask(path, lambda: path.fs.info(path.path))
    except FileNotFoundError:
        return False
    return True


def is_folder(path: UPath) -> bool:
    """Whether a folder is there; in an object store, whether it holds anything."""
    try:
        return path.is_dir() if is_local(path) else bool(_names(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def listed(folder: UPath, ending: str = "", beginning: str = "") -> list[UPath]:
    """Published files of a folder by name; none where the folder is not there."""
    try:  # on a disk names come first: to make a path of each costs more than to list a thousand
        names = _names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / n for n in sorted(names) if n.endswith(ending) and n.startswith(beginning) and not n.startswith(".")]


def versions(folder: UPath, ending: str = "") -> dict[str, tuple[Any, ...] | None]:
    """Published files of a folder, by one listing: name -> what differs once the file was replaced; None where the store tells nothing."""
    found: dict[str, tuple[Any, ...] | None] = {}
    try:
        if is_local(folder):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(ending) and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                            told = entry.stat()
                            found[entry.name] = told.st_ino, told.st_mtime_ns, told.st_size
        else:
            for info in ask(folder, lambda: folder.fs.ls(folder.path, detail=True)):
                name = PurePosixPath(info["name"]).name
                if name.endswith(ending) and not name.startswith("."):
                    found[name] = tuple((key, str(info[key])) for key in _VERSION if key in info) or None
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(sorted(found.items()))


def move(path: UPath, to: UPath) -> bool:
    """Move a file; False where it is gone already."""
    try:
        if is_local(path) and is_local(to):
            to.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, to)
        else:
            ask(path, lambda: path.fs.mv(path.path, to.path))
    except FileNotFoundError:
        return False
    return True


def remove(path: UPath) -> None:
    """Delete a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        if is_local(path):
            path.unlink()
        else:
            ask(path, lambda: path.fs.rm_file(path.path))


def check(folder: UPath) -> None:
    """Try, before any engine is started, that a second writer loses here. Raises FilesError, OSError where nothing can be written."""
    probe = folder / _temporary("probe")
    try:
        if not put_new(probe, b"1") or put_new(probe, b"2"):
            raise FilesError(f"{folder}: this store replaces a file although asked not to: two runs could mix their results. Use another.")
    except (OSError, FilesError) as e:
        with contextlib.suppress(OSError):  # it goes with what is abandoned
            remove(probe)
        if isinstance(e, OSError) and e.errno in _NO_LINKS and is_local(folder):
            raise FilesError(f"{folder}: this filesystem has no hard links ({e.strerror}), which keep writers apart. Use another.") from e
        raise
    remove(probe)


def remove_abandoned(folder: UPath) -> list[str]:
    """Delete temporary files of writers that were killed: of processes of this machine at once, of others' after an hour.

    Age is judged by the filesystem's own clock, against a file written now: clocks of two machines are never compared.
    """
    removed, there = [], float("nan")
    try:
        names = _names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        match = _TEMPORARY.match(name)
        if match is None:
            continue
        gone = match["machine"] == machine() and not is_running(int(match["pid"]), int(match["started"]))
        if not gone and there != there:
            there = now(folder)
        if gone or age(folder / name, there) > STALE_SECONDS:
            remove(folder / name)
            removed.append(name)
    return removed


@functools.cache
def machine() -> str:
    """What tells apart machines, reboots of one, and containers whose process ids are their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot[:16]}{os.stat('/proc/self/ns/pid').st_ino:x}"
    except OSError:  # no Linux: then nothing is known of other processes
        return f"{uuid.getnode():x}"


def started(pid: int) -> int:
    """When a process of this machine started, in ticks since boot (a process id alone is given to others later); 0 if it is not there."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state in "ZX" else int(fields[18])


def is_running(pid: int, since: int) -> bool:
    """Is it still the process that started then? Also true where that is not known (`since` 0)."""
    return since == 0 or started(pid) == since


def _names(folder: UPath) -> list[str]:
    """Of all that is in a folder. Raises FileNotFoundError, NotADirectoryError."""
    if is_local(folder):
        return os.listdir(folder)
    return [PurePosixPath(name).name for name in ask(folder, lambda: folder.fs.ls(folder.path, detail=False))]


def _temporary(name: str) -> str:
    """A name after this process: where that is killed, the file goes with what is abandoned."""
    me = os.getpid()
    return f".{name}.{machine()}-{me}-{started(me)}.{os.urandom(6).hex()}.tmp"


def _write_beside(path: Path, data: bytes) -> Path:
    """A flushed temporary file beside a path, named after this process; nothing is left where writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / _temporary(path.name)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            e.filename = str(path)  # of a full disk the system says no name
        raise
    return temporary


def _flush(folder: Path) -> None:
    """After a power cut a published name must still be there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network filesystems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now(folder: UPath) -> float:
    """What the clock of a folder's filesystem or store says, to set against when its files were written (see `age`); NaN where that is not
    known, as in a folder that we may only read.
    """
    clock = folder / _temporary("now")
    try:
        if is_local(clock):
            clock.touch()
        else:
            put(clock, b"")
        return _written(clock)
    except OSError:
        return float("nan")
    finally:
        with contextlib.suppress(OSError):
            remove(clock)


def age(path: UPath, there: float) -> float:
    """Seconds since a file was written; NaN where it is gone, or that is not known.

    Args: there: `now` of its folder.
    """
    try:
        return max(there - _written(path), 0.0)  # NaN stays
    except OSError:
        return float("nan")


def _written(path: UPath) -> float:
    if is_local(path):
        return path.stat().st_mtime
    when = written(path)
    return float("nan") if when is None else when.timestamp()


def written(path: UPath) -> datetime | None:
    """When a file of an object store was written, by the store's clock; None on a disk (see `age`), or where it does not tell."""
    if is_local(path):
        return None
    try:
        when = ask(path, lambda: path.fs.modified(path.path))
    except (OSError, NotImplementedError, KeyError):
        return None
    return when if isinstance(when, datetime) else None
