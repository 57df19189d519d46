"""Make .venv: check the machine, choose the device, install everything from the lock of that device.

Why: one command on a fresh machine, and one clear sentence where it cannot work, before anything is downloaded.
What it does not do: choose versions (.ci/lock.py does), install system packages, touch anything outside .venv.
Only the standard library, and syntax that an older Python can read: it may be started by any Python.

    python3.11 .ci/setup.py            DEVICE=cpu or DEVICE=gpu in the environment overrides the detection
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOG = VENV / "install.log"  # also the mark of a folder that this script made and may replace
STAMP = VENV / "installed.json"  # written last: without it the environment is not whole
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # the CPU build of torch is published there and not on the package index
CUDA_DRIVER = 580  # the first that runs CUDA 13, which the locked torch is built for


class Need(NamedTuple):
    """What an environment takes, in GB: measured for the CPU, from the published file sizes for the GPU."""

    download: float
    disk: float
    memory: float


NEEDS = {"cpu": Need(download=0.9, disk=5, memory=5), "gpu": Need(download=4.2, disk=16, memory=12)}


class Machine(NamedTuple):
    """What matters of the machine, so that the judgement on it can be tested without having such machines."""

    system: str
    arch: str
    python: tuple[int, int]
    glibc: tuple[int, int]
    cpu_flags: frozenset[str]
    memory: float
    disk: float
    compiler: bool
    headers: bool
    venv: bool
    gpus: tuple[str, ...]
    driver: int


def first_line(path: str) -> str:
    """The first line of a file, empty where there is none."""
    try:
        return Path(path).read_text().partition("\n")[0]
    except OSError:
        return ""


def memory_gb() -> float:
    """Memory of this machine, or of the container that we are in."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limits += [int(text) for text in [first_line(path)] if text.isdigit()]
    return min(limits) / 1e9


def nvidia_gpus() -> tuple[tuple[str, ...], int]:
    """Names of the GPUs and the driver's main version, as nvidia-smi gives them; no GPUs where it does not answer."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        rows = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        driver = int(rows[0].rpartition(", ")[2].partition(".")[0])
        return tuple(row.rpartition(", ")[0] for row in rows), driver
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return (), 0


def this_machine() -> Machine:
    """Look at the machine."""
    gpus, driver = nvidia_gpus()
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    libc, libc_version = platform.libc_ver()
    glibc = tuple(int(part) for part in libc_version.split(".")[:2]) if libc == "glibc" else (0, 0)
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        python=sys.version_info[:2],
        glibc=(glibc[0], glibc[1]),
        cpu_flags=frozenset(next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])),
        memory=memory_gb(),
        disk=shutil.disk_usage(ROOT).free / 1e9,
        compiler=bool(shutil.which(os.environ.get("CC", "gcc")) and shutil.which(os.environ.get("CXX", "g++"))),
        headers=Path(sysconfig.get_path("include"), "Python.h").exists(),
        venv=_importable("ensurepip") and _importable("venv"),
        gpus=gpus,
        driver=driver,
    )


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def choose_device(machine: Machine, asked: str) -> tuple[str, str]:
    """The device and, in words, why."""
    if asked:
        return asked, "asked for by DEVICE"
    if machine.gpus:
        return "gpu", f"found {len(machine.gpus)} x {machine.gpus[0]}"
    return "cpu", "no NVIDIA GPU answers"


def obstacles(machine: Machine, device: str) -> Iterator[str]:
    """One sentence for each thing that would keep the environment from working: what is needed, what was found, what to do."""
    if machine.system != "Linux":
        yield f"vLLM runs on Linux only and this is {machine.system}: use a Linux machine, a container or WSL 2."
        return  # nothing below can be judged here
    if machine.python != (3, 11):
        found = ".".join(map(str, machine.python))
        yield f"Python 3.11 is needed and this is {found}: install 3.11, or name one with PYTHON=/path/to/python3.11."
    if machine.arch != "x86_64":
        yield f"The locked packages are for x86_64 and this machine is {machine.arch}: install with pip and the extras of pyproject.toml."
    if machine.glibc < (2, 31):
        found = "another C library" if machine.glibc == (0, 0) else "glibc {}.{}".format(*machine.glibc)
        yield f"glibc 2.31 or newer is needed and this system has {found}: use a newer system (Debian 11, Ubuntu 20.04, RHEL 9 or later)."
    if not machine.venv:
        yield "This Python cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3.11-venv)."
    if not (machine.compiler and machine.headers):
        missing = " and ".join(what for what, there in (("g++", machine.compiler), ("Python.h", machine.headers)) if not there)
        yield f"The engine compiles parts of itself while it runs, and {missing} is missing: apt install g++ python3.11-dev, or the like."
    yield from device_obstacles(machine, device)


def device_obstacles(machine: Machine, device: str) -> Iterator[str]:
    """The same for what only one device asks for."""
    need = NEEDS[device]
    if device == "cpu" and machine.arch == "x86_64" and "avx2" not in machine.cpu_flags:
        yield "vLLM's CPU engine needs a processor with AVX2 and this one does not show it: use another machine, or a GPU with DEVICE=gpu."
    if device == "gpu" and not machine.gpus:
        yield "DEVICE=gpu, but nvidia-smi shows no GPU: install the NVIDIA driver, or use DEVICE=cpu."
    elif device == "gpu" and machine.driver < CUDA_DRIVER:
        yield f"The NVIDIA driver is {machine.driver} and CUDA 13 needs {CUDA_DRIVER} or newer: update it, or use DEVICE=cpu."
    if machine.disk < need.disk:
        yield f"The {device} environment needs {need.disk:g} GB of disk and {machine.disk:.1f} GB are free: make room, or clone elsewhere."
    if machine.memory < need.memory:
        yield f"The {device} engine needs {need.memory:g} GB of memory and this machine has {machine.memory:.1f} GB: use a larger one."


def stamp(device: str) -> dict[str, str]:
    """What a whole environment was made from. The folder is in it because an environment cannot be moved."""
    lock = ROOT / ".ci" / f"{device}.lock"
    return {"device": device, "lock": hashlib.sha256(lock.read_bytes()).hexdigest(), "folder": str(ROOT)}


def installed_device() -> str | None:
    """The device whose environment stands whole and up to date in .venv, if any."""
    try:
        found = json.loads(STAMP.read_text())
        return found["device"] if found == stamp(found["device"]) and os.access(VENV / "bin" / "python", os.X_OK) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Progress:
    """Says how far the installation is: in place on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.start = total, time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.shown = self.start

    def show(self, step: str, log_from: int) -> None:
        """Read the installer's log from a position on, and show where it is."""
        now = time.monotonic()
        if now - self.shown < (0.5 if self.terminal else 10):
            return
        self.shown = now
        with LOG.open(errors="replace") as log:
            log.seek(log_from)
            text = log.read()
        if "Installing collected packages" in text:
            installed = len(list(VENV.glob("lib/python*/site-packages/*.dist-info")))
            step += f", installed {min(installed, self.total)} of {self.total}"
        elif "Collecting " in text:
            step += f", fetched {text.count('Collecting ')} of {self.total}"
        line = f"  {now - self.start:3.0f} s: {step}"
        print(f"\r{line}\033[K" if self.terminal else line, end="" if self.terminal else "\n", flush=True)


def pip(step: str, arguments: list[str], progress: Progress) -> bool:
    """Run pip for one step with its output in the log; False where it fails."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", *arguments]
    temporary = VENV / "tmp"  # not /tmp, which is often small or in memory
    temporary.mkdir(exist_ok=True)
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        position = log.tell()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)})
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress.show(step, position)
        finally:
            process.kill()
            process.wait()
    shutil.rmtree(temporary)
    return process.returncode == 0


def install(device: str) -> None:
    """Make .venv anew and fill it: build tools, torch, everything else, this project. Always anew, since a broken one cannot be trusted."""
    if VENV.exists() and not LOG.exists():
        sys.exit(f"{VENV} exists and was not made by this script: move it away, or install into it yourself with pip.")
    shutil.rmtree(VENV, ignore_errors=True)
    lines = [line for line in (ROOT / ".ci" / f"{device}.lock").read_text().splitlines() if not line.startswith("#")]
    need = NEEDS[device]
    print(f"Installing {len(lines)} packages into .venv (about {need.download:g} GB to download); details in .venv/install.log", flush=True)
    VENV.mkdir()
    LOG.touch()
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    progress = Progress(len(lines))
    build, torch = VENV / "build.txt", VENV / "torch.txt"
    build.write_text("\n".join(line for line in lines if line.startswith(("setuptools==", "wheel=="))))
    torch.write_text("\n".join(line for line in lines if line.startswith("torch==")))
    done = (
        pip("build tools", ["-r", str(build)], progress)
        and (
            pip("torch", ["-r", str(torch)], progress)
            or (device == "cpu" and pip("torch, from its own index", ["--index-url", TORCH_CPU_INDEX, "-r", str(torch)], progress))
        )
        and pip("packages", ["-r", f".ci/{device}.lock"], progress)
        and pip("thinkscale", ["-e", "."], progress)
    )
    if not done:
        tail = "\n".join([line for line in LOG.read_text(errors="replace").splitlines() if not line.startswith("WARNING: ")][-15:])
        sys.exit(f"\n{tail}\n\nInstalling failed, see above and {LOG}. Most often the network did: the same command starts afresh.")
    STAMP.write_text(json.dumps(stamp(device)))
    seconds = time.monotonic() - progress.start
    print(f"{chr(10) if progress.terminal else ''}Installed in {seconds:.0f} s. To use it: source .venv/bin/activate")


def main() -> None:
    """Do as little as is needed."""
    asked = os.environ.get("DEVICE", "").strip().lower()
    if asked not in ("", "cpu", "gpu"):
        sys.exit(f"DEVICE={asked} is unknown: it is cpu or gpu, or leave it out.")
    there = installed_device()
    if there and asked in ("", there):
        print(f"Device: {there} (.venv is up to date).", flush=True)
        return
    machine = this_machine()
    device, reason = choose_device(machine, asked)
    print(f"Device: {device} ({reason}). DEVICE={'cpu' if device == 'gpu' else 'gpu'} overrides.", flush=True)
    found = list(obstacles(machine, device))
    if found:
        sys.exit("\n".join(found))
    install(device)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command starts afresh.")
