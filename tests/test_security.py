"""What must not leak, and what must not be obeyed."""

import os
import subprocess
import sys

import pytest

from fakes import FAKE_VLLM, study
from thinkscale import files
from thinkscale.config import FLOWS, ConfigError
from thinkscale.loading import prompt_text
from thinkscale.plan import open_study

SECRETS = {
    "HF_TOKEN": "hf_marked0secret",
    "THINKSCALE_API_KEY": "ts_marked0secret",
    "AWS_SECRET_ACCESS_KEY": "aws_marked0secret",
    "PREFECT_API_AUTH_STRING": "admin:marked0secret",
    "PREFECT_API_KEY": "pnu_marked0secret",
}


def test_a_results_folder_and_what_is_printed_hold_no_secret(tmp_path):
    """A whole run in a process that knows secrets, through an engine that dies once and is told of at length."""
    fault = '{"kind": "crash", "after": 9, "once": "%s"}' % (tmp_path / "been")
    opened = study(tmp_path, engine={"command": [*FAKE_VLLM, "--children", "--fault", fault], "concurrency": 4})
    code = f"""
import logging, os, sys
logging.basicConfig(level=logging.DEBUG)
import fakes
from thinkscale import manifest, report, serving
kept, launch = [], serving.Running.launch
opened = fakes.reopen({str(tmp_path)!r})
start = serving.start
def remember(*arguments, **options):
    kept.append(start(*arguments, **options))
    return kept[-1]
serving.start = remember
fakes.run_fake(opened)
report.show(report.analyze(opened))
manifest.write_manifest(opened)
open({str(tmp_path / "keys")!r}, "w").write("\\n".join(running.key for running in kept))
"""
    paths = os.pathsep.join((str(FLOWS), os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, **SECRETS, "PYTHONPATH": paths}, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    keys = (tmp_path / "keys").read_text().split()
    assert len(keys) == 2 and all(len(key) >= 32 for key in keys) and b"Starting the engine again" in done.stderr
    found = {str(p): p.read_bytes() for p in opened.store.root.rglob("*") if p.is_file()}
    found |= {"stdout": done.stdout, "stderr": done.stderr}
    assert any(name.endswith(".log") for name in found) and any(name.endswith("manifest.json") for name in found)
    for name, data in found.items():
        for secret in (*SECRETS.values(), *keys, "marked0secret"):
            assert secret.encode() not in data, f"{name} holds a secret"


def test_yaml_is_data_and_never_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path / 'done'}']\nasks: x\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml: not valid YAML.*python/object"):
        open_study(str(path), tmp_path)
    assert not (tmp_path / "done").exists()


GOOD = {
    "name": "good",
    "asks": "?",
    "models": ["ladder-21k"],
    "benchmarks": {"sums": {"problems": 4}},
    "thinking_budgets": [0],
    "num_samples": 1,
    "answer_tokens": 8,
}
EVIL = ("..", "../up", "/abs", "a/b", "a\\b", ".hidden", "-flag", "a\nb", "a b", "", "ä", "\u202ename", "a\x00b", "~", "${HOME}", "{{ x }}")


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("key", ["name", "prompt", "models", "benchmarks", "gpu"])
def test_a_name_cannot_leave_its_folder(tmp_path, key, name):
    value = {"models": [name], "benchmarks": {name: {"problems": 4}}}.get(key, name)
    with pytest.raises(ConfigError):
        open_study({**GOOD, key: value}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_for_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="name"):
        open_study({**GOOD, "name": "x" * 300}, tmp_path)


def test_only_files_of_the_prompts_folder_are_prompts():
    for name in ("../README", "..", "question/../question", "/etc/passwd"):
        with pytest.raises(ConfigError, match="no prompt"):
            prompt_text(name)


def test_what_is_written_stays_under_the_results_folder(tmp_path):
    opened = open_study(GOOD, tmp_path / "results")
    assert opened.store.root == tmp_path / "results" / "good" and files.is_local(opened.store.root)
