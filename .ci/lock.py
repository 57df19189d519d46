"""Write .ci/cpu.lock and .ci/gpu.lock: every package of an environment, pinned, with the hashes of its files.

Why: the engine, Prefect and their hundreds of dependencies break each other release by release; what was tested is what is installed.
What it does not do: install anything, or download more than metadata. Needs `uv` on the PATH, and reads its usual settings.
The CPU build of torch is on no ordinary index: PyTorch's page of it is read, or the folder or page that TORCH_CPU_LINKS names.

    python3.11 .ci/lock.py [cpu] [gpu]
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_31")
BUILD = "setuptools\nwheel\n"  # some dependencies come as source only, and are built without a network
TORCH_CPU_LINKS = os.environ.get("TORCH_CPU_LINKS", "https://download.pytorch.org/whl/cpu/torch/")

# Left out although vLLM asks for them; text models need none.
LEFT_OUT = {
    "cpu": {
        "torchvision": "its only build on the index is for CUDA: beside a CPU torch, importing transformers dies",
        "torchaudio": "likewise",
        "torchcodec": "likewise",
        "triton": "1 GB of GPU compiler that no CPU code path imports",
    },
    "gpu": {},
}


def resolve(device: str) -> list[dict[str, Any]]:
    """Let uv choose the versions; return the packages of its lock."""
    with tempfile.TemporaryDirectory() as folder:
        build, out = Path(folder) / "build.in", Path(folder) / "pylock.toml"
        build.write_text(BUILD)
        command = ["uv", "pip", "compile", "-q", "pyproject.toml", str(build), "--extra", device, "--extra", "dev"]
        links = ["--find-links", TORCH_CPU_LINKS] if device == "cpu" else []  # elsewhere it would be preferred to the CUDA build
        subprocess.run([*command, *links, *PLATFORM, "-o", str(out)], cwd=ROOT, check=True)
        packages: list[dict[str, Any]] = tomllib.loads(out.read_text())["packages"]
        return packages


def line(package: dict[str, Any]) -> str:
    """One requirement; a source archive only where there is no wheel for the platform."""
    files = package.get("wheels") or [package["sdist"]]
    hashes = "".join(f" --hash=sha256:{digest}" for digest in sorted(file["hashes"]["sha256"] for file in files))
    return f"{package['name']}=={package['version']}{hashes}"


def write(device: str) -> None:
    """Write the lock of one device."""
    left_out = LEFT_OUT[device]
    packages = [package for package in resolve(device) if package["name"] not in left_out and "directory" not in package]
    head = ["# Written by .ci/lock.py: Python 3.11, Linux x86_64, glibc 2.31 or newer. Complete: install it with --no-deps."]
    head += [f"# Left out: {name} ({why})." for name, why in left_out.items()]
    path = ROOT / ".ci" / f"{device}.lock"
    path.write_text("\n".join([*head, *map(line, packages)]) + "\n")
    megabytes = sum((package.get("wheels") or [package["sdist"]])[0].get("size", 0) for package in packages) / 1e6
    print(f"{path.relative_to(ROOT)}: {len(packages)} packages, {megabytes:,.0f} MB to download (files of unknown size not counted)")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or LEFT_OUT:
        write(chosen)
