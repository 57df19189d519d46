"""A folder on a disk and one in an object store do the same; what differs is tried for each."""

import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from fakes import files as parts
from fakes import rows, run_fake, run_toy, study
from thinkscale import files
from thinkscale.claims import Claims
from thinkscale.config import FLOWS, ConfigError
from thinkscale.graded import read_graded
from thinkscale.plan import open_study, owed_now, owed_shards
from thinkscale.report import analyze
from thinkscale.store import PARTS, Store

KINDS = ("disk", "store")


@pytest.fixture(scope="session")
def bucket():
    """A URL in an S3 server of this process's own, and the variables that lead to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    settings |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        import boto3

        boto3.client("s3").create_bucket(Bucket="results")
        yield "s3://results"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        server.stop()


@pytest.fixture(params=KINDS)
def folder(request, tmp_path, bucket):
    return files.place(f"{bucket}/{tmp_path.name}" if request.param == "store" else tmp_path)


def test_the_first_to_publish_a_name_has_it(folder):
    path = folder / "a" / "b"
    assert files.put_new(path, b"one") and not files.put_new(path, b"two") and path.read_bytes() == b"one"
    files.put(path, b"three")
    assert path.read_bytes() == b"three"
    assert [p.name for p in files.listed(folder / "a")] == ["b"] and files.listed(folder / "none") == []


def test_a_full_disk_is_said_with_the_file_that_could_not_be_written(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        files.put(UPath(tmp_path) / "a", b"1")
    assert error.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_what_another_writes_is_seen_at_once(folder):
    assert files.listed(folder / "a") == []
    code = f"import sys; sys.path.insert(0, {str(FLOWS)!r}); from thinkscale import files\n"
    code += f"assert files.put_new(files.place({str(folder)!r}) / 'a' / 'b', b'theirs')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [p.name for p in files.listed(folder / "a")] == ["b"] and not files.put_new(folder / "a" / "b", b"ours")


def test_one_listing_tells_which_files_were_replaced(folder):
    for name in ("b.json", "a.json", ".a.json", "c.txt"):
        files.put(folder / "x" / name, b"1")
    first = files.versions(folder / "x", ".json")
    assert list(first) == ["a.json", "b.json"] and None not in first.values() and files.versions(folder / "x", ".json") == first
    files.put(folder / "x" / "b.json", b"2")
    then = files.versions(folder / "x", ".json")
    assert then["a.json"] == first["a.json"] and then["b.json"] != first["b.json"]
    assert files.versions(folder / "none") == {} == files.versions(folder / "x" / "a.json" / "none")


def test_a_store_that_tells_nothing_of_its_files_but_names_and_sizes_has_no_versions():
    there = files.place("memory://bare/x")
    files.put(there / "a", b"1")

    class Bare(MemoryFileSystem):
        def ls(self, path, detail=True, **options):
            return [{key: info[key] for key in ("name", "size", "type")} for info in super().ls(path, detail=True, **options)]

    bare = SimpleNamespace(fs=Bare(), path=there.path)
    assert files.versions(there)["a"] is not None and files.versions(bare) == {"a": None}


def test_a_file_is_moved_once_and_removed_as_often_as_one_likes(folder):
    files.put_new(folder / "a" / "b", b"1")
    assert files.move(folder / "a" / "b", folder / "c" / "d") and not files.move(folder / "a" / "b", folder / "c" / "e")
    assert (folder / "c" / "d").read_bytes() == b"1" and files.listed(folder / "a") == []
    files.remove(folder / "c" / "d")
    files.remove(folder / "c" / "d")
    assert files.listed(folder / "c") == []


def test_a_check_that_was_killed_leaves_nothing_for_long(folder):
    code = f"""
import os, signal, sys; sys.path.insert(0, {str(FLOWS)!r})
from thinkscale import files
files.remove = lambda path: os.kill(os.getpid(), signal.SIGKILL)
files.check(files.place({str(folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    files.put(folder / ".a.parquet.abc-12-77.0123456789ab.tmp", b"of another machine, a moment ago")
    (gone,) = files.remove_abandoned(folder)
    assert gone.startswith(".probe.") and [p.name for p in folder.iterdir()] == [".a.parquet.abc-12-77.0123456789ab.tmp"]


def test_a_file_is_as_old_as_the_folder_s_own_clock_says_and_asking_leaves_nothing(folder):
    path = folder / "a"
    files.put(path, b"1")
    there = files.now(folder)
    assert 0.0 <= files.age(path, there) < 60.0 and 99.0 < files.age(path, there + 100.0) < 160.0
    files.remove(path)
    gone = files.age(path, there)
    assert gone != gone and files.versions(folder) == {} and (not files.is_local(folder) or os.listdir(folder) == [])


def test_a_place_that_keeps_writers_apart_passes_the_check_and_nothing_is_left(folder):
    files.check(folder)
    assert files.listed(folder) == []


class Sloppy(MemoryFileSystem):
    """A store that takes the condition and does not keep it, as some that speak S3's language do."""

    protocol = "sloppy"

    def pipe_file(self, path, value, mode="overwrite", **options):
        super().pipe_file(path, value, mode="overwrite", **options)


@pytest.mark.filterwarnings("ignore:UPath .sloppy. filesystem not explicitly implemented")
def test_a_place_that_replaces_files_is_refused():
    fsspec.register_implementation("sloppy", Sloppy, clobber=True)
    with pytest.raises(files.FilesError, match=r"replaces a file although asked not to.*Use another"):
        files.check(files.place("sloppy://x/y"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_filesystem_without_hard_links_is_refused_and_nothing_is_left(tmp_path, monkeypatch, number):
    def link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(files.FilesError, match=r"has no hard links.*Use another"):
        files.check(UPath(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("s3://key:secret@bucket/x", "must not hold a key or password"),
        ("gs://bucket/x", r"driver is not installed.*pip install 'thinkscale\[gs\]'"),
        ("abc://bucket/x", "abc"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_clear_error(where, said):
    with pytest.raises(ConfigError, match=said) as error:
        open_study("smoke", where)
    assert "secret" not in str(error.value)


def test_temporary_files_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path):
    me, here = os.getpid(), files.machine()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    names = {
        f".a.parquet.{here}-{me}-{files.started(me)}.0123456789ab.tmp": True,  # ours
        f".a.parquet.{here}-{dead}-77.0123456789ab.tmp": False,
        f".a.parquet.{here}-{me}-{files.started(me) - 1}.0123456789ab.tmp": False,  # our id, given to another before
        ".a.parquet.abc-12-77.0123456789ab.tmp": True,  # of another machine, a moment ago
        ".a.parquet.abc-13-77.0123456789ab.tmp": False,  # and long ago
        "a.parquet": True,
        ".notes": True,
    }
    for name in names:
        (tmp_path / name).write_bytes(b"")
    old = time.time() - files.STALE_SECONDS - 60
    os.utime(tmp_path / ".a.parquet.abc-13-77.0123456789ab.tmp", (old, old))
    removed = files.remove_abandoned(UPath(tmp_path))
    assert sorted(removed) == sorted(n for n, stays in names.items() if not stays)
    assert sorted(os.listdir(tmp_path)) == sorted(n for n, stays in names.items() if stays)
    assert files.remove_abandoned(UPath(tmp_path / "none")) == []


def test_claims_hold_in_an_object_store_too(bucket):
    store = Store(f"{bucket}/claims-test")
    with Claims(store, "m", 60.0) as one, Claims(store, "m", 60.0) as other:
        assert one.take("s", "") and not other.take("s", "")
        one.release("s")
        assert other.take("s", "")
        other.check("s")
    with Claims(store, "m", 60.0) as one:
        one.forget({"s"})
    assert files.listed(store.root / "claims") == []


def packed_otherwise(part):
    """The rows of a part in other bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(part)), sink, compression="gzip")
    return bytes(sink.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_owed_is_asked_again_without_reading_a_part_again(tmp_path, bucket, monkeypatch, kind):
    opened = study(tmp_path)
    if kind == "store":
        object.__setattr__(opened, "store", Store(f"{bucket}/again/fake"))
    assert run_fake(opened) == 3 and owed_shards(opened, "fake-100k") == []
    read, reads = Store._read_part, []
    monkeypatch.setattr(Store, "_read_part", lambda self, table, path, *rest: reads.append(path.name) or read(self, table, path, *rest))
    assert owed_shards(opened, "fake-100k") == [] and reads == []
    gone = opened.store.parts("answers")[0]
    data = gone.read_bytes()
    files.remove(gone)
    (shard,) = owed_shards(opened, "fake-100k")
    assert shard.answers and reads == []
    files.put(gone, packed_otherwise(data))  # the same bytes within a second are the same version to a store, and rightly not read again
    assert owed_now(opened, shard).sequences == 0 and reads == [gone.name]


def test_a_whole_study_in_an_object_store_is_the_one_on_a_disk(tmp_path, bucket):
    """Drawn by the fake engine, a torn part set aside and drawn again, graded, analyzed, read: the same bytes."""
    local, remote = study(tmp_path), study(tmp_path)
    object.__setattr__(remote, "store", Store(f"{bucket}/whole/fake"))
    assert run_fake(local) == run_fake(remote) == 3
    assert parts(local) == parts(remote) and len(parts(local)) >= 10
    torn = remote.store.parts("samples")[0]
    torn.write_bytes(torn.read_bytes()[:-100])
    assert run_fake(remote) == 1 and parts(local) == parts(remote) and len(remote.store.quarantined()) == 2
    for opened in (local, remote):
        analyze(opened)
    for name in ("summary.parquet", "comparison.parquet", "claims.parquet"):
        assert (local.store.root / name).read_bytes() == (remote.store.root / name).read_bytes()
    assert (remote.store.root / "plots" / "accuracy-vs-flops.png").read_bytes().startswith(b"\x89PNG")
    assert read_graded(str(remote.store.root)).equals(read_graded(local.store.root))
    assert {t: rows(local, t) for t in PARTS} == {t: rows(remote, t) for t in PARTS} and not owed_shards(remote, "fake-100k")
    assert files.listed(remote.store.root / "claims") == []
    assert run_toy(remote).requests == []
