"""What must not be written down is not, and what is written in YAML runs nothing and stays in its folder."""

import asyncio
import json
import logging
import shlex

import pytest

from fakes import FAKE_VLLM, study
from thinkscale import launch
from thinkscale.config import Catalogue, ConfigError
from thinkscale.evaluate import evaluate, start_engine
from thinkscale.loading import hidden, load_catalogue, load_experiment
from thinkscale.manifest import write_manifest
from thinkscale.plan import owed_shards
from thinkscale.report import analyze

SECRETS = ("HF_TOKEN", "THINKSCALE_API_KEY", "AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
MODEL = "fake-100k"
NAMES = {
    "parent": "..",
    "up": "../out",
    "inside": "a/../../b",
    "absolute": "/etc/passwd",
    "hidden": ".ssh",
    "backslash": "a\\b",
    "home": "~root",
    "variable": "$HOME",
    "space": "a b",
    "null": "a\0b",
    "line": "a\n",
    "full width dots": "\uff0e\uff0e",
    "division slash": "a\u2215b",
    "letter": "\u00e9t\u00e9",
    "option": "-rf",
    "link": "a -> /etc",
    "empty": "",
    "long": "a" * 300,
}


def test_a_results_folder_and_the_logs_hold_no_secret(tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG, "thinkscale")
    for name in SECRETS:
        monkeypatch.setenv(name, f"marked-{name.lower()}-value")
    slow = [*FAKE_VLLM, "--fault", '{"kind": "slow", "seconds": 0.4}']  # long enough for rows of what the engine did
    opened = study(tmp_path, engine={"command": slow, "concurrency": 4, "stall_timeout": 4.0})
    write_manifest(opened)
    running = start_engine(opened, MODEL, owed_shards(opened, MODEL))
    assert asyncio.run(evaluate(opened, MODEL, early=running)) > 0
    analyze(opened)
    said = capfd.readouterr()
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert {p.split("/")[1] for p in found if "/" in p} >= {"manifest.json", "logs", "samples", "engine", "summary.parquet"}
    found |= {"logged": caplog.text.encode(), "printed": (said.out + said.err).encode(), "shown": running.by_hand.encode()}
    assert b"VLLM_API_KEY=..." in found["shown"] and len(running.key) >= 32
    for secret in (running.key, *(f"marked-{name.lower()}-value" for name in SECRETS)):
        assert [where for where, data in found.items() if secret.encode() in data] == []


def test_the_engine_is_not_given_the_keys_of_prefect_and_of_foreign_servers(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "x")
    assert launch.inherited_environment("python").keys() & set(SECRETS) == {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"}, "weights may need these"


@pytest.mark.parametrize(
    "url", ["http://user:marked@host:1", "http://marked@host:1/v1", "http://host:1/v1?api_key=marked", "http://host:1/#marked"]
)
def test_an_address_that_holds_a_secret_is_refused_and_not_repeated(tmp_path, url):
    with pytest.raises(ConfigError, match=r"engine\.base_url: holds a user") as error:
        study(tmp_path, engine={"base_url": url})
    assert "marked" not in str(error.value)


def test_an_address_without_one_is_taken(tmp_path):
    assert study(tmp_path, engine={"base_url": "http://host:8000/v1"}).config.engine.base_url == "http://host:8000/v1"


UNSAFE = [["--api-key", "marked"], ["--api_key=marked"], ["--api-k", "marked"], ["--hf-token=marked"], ["HF_TOKEN=marked"]]
UNSAFE += [["--env=HF_TOKEN=marked"], ["--env", "A=1,HF_TOKEN=marked"], ["-eHF_TOKEN=marked"], ["hf_token=marked"], ["Api_Key=marked"]]
UNSAFE += [["bash", "-c", "export 'HF_TOKEN=marked'"], ["bash", "-c", "exec vllm --api-key marked"], ["HF_TOKENS=marked,marked"]]
UNSAFE += [["--host", "0.0.0.0"], ["--host=0.0.0.0"], ["--port", "80"], ["--uds", "/tmp/x"]]


@pytest.mark.parametrize("words", UNSAFE, ids=" ".join)
def test_a_command_line_holds_no_secret_and_opens_no_engine_wherever_it_is_written(tmp_path, monkeypatch, words):
    said = []
    with pytest.raises(ConfigError, match=r"fake\.yaml: engine\.command") as error:
        study(tmp_path, engine={"command": [*FAKE_VLLM, *words]})
    said.append(str(error.value))
    entry = load_catalogue().model_dump(mode="json")
    next(iter(entry["models"].values()))["engine_args"] = words
    (tmp_path / "models.yaml").write_text(json.dumps(entry))
    with pytest.raises(ConfigError, match=r"models\.yaml: models\..*\.engine_args") as error:
        load_catalogue(tmp_path / "models.yaml")
    said.append(str(error.value))
    opened = study(tmp_path, engine={})
    monkeypatch.setenv("THINKSCALE_ENGINE_COMMAND", shlex.join(["env", *words, "vllm"]))
    with pytest.raises(ConfigError, match="THINKSCALE_ENGINE_COMMAND") as error:
        launch.engine_command(opened.catalogue.models[MODEL], opened.config.engine, "cpu", 1, 0)
    assert "marked" not in " ".join([*said, str(error.value)])


def test_engines_listen_on_the_loopback(tmp_path):
    opened = study(tmp_path)
    command = launch.engine_command(opened.catalogue.models[MODEL], opened.config.engine, "gpu", 1, 0)
    assert command[command.index("--host") + 1] == "127.0.0.1" and command.count("--host") == 1
    with launch.reserve_port() as port:
        assert port.getsockname()[0] == "127.0.0.1"


HIDDEN = {
    "HF_TOKEN=x y\nz": "HF_TOKEN=...",
    "VLLM_API_KEY=k": "VLLM_API_KEY=...",
    "--env=HF_TOKEN=x": "--env=HF_TOKEN=...",
    "A=1,HF_TOKEN=x,B=2": "A=1,HF_TOKEN=...",
    "-eHF_TOKEN=x": "-eHF_TOKEN=...",
    "hf_token=x": "hf_token=...",
    "export A=1 HF_TOKEN=x; exec vllm": "export A=1 HF_TOKEN=...",
    "db_password=1": "db_password=...",
}
HARMLESS = (
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE=60",
    "--max-num-batched-tokens=8",
    "--max_num_batched_tokens=8",
    "--tokenizer=a",
    "--ssl-keyfile=a",
)
HARMLESS += ("--speculative-config.num_speculative_tokens=5", "--hf-overrides.eos_token_id=2", "TOKENIZERS_PARALLELISM=false")


def test_words_are_shown_without_secrets_and_otherwise_as_they_are(tmp_path):
    assert {word: hidden(word) for word in (*HIDDEN, *HARMLESS)} == HIDDEN | {word: word for word in HARMLESS}
    assert study(tmp_path, engine={"command": [*FAKE_VLLM, *HARMLESS]}).config.engine.command == (*FAKE_VLLM, *HARMLESS)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"])
@pytest.mark.parametrize("load", ["experiment", "catalogue"])
def test_yaml_runs_nothing(tmp_path, tag, load):
    path, made = tmp_path / "evil.yaml", tmp_path / "made"
    path.write_text(f"name: {tag} [{made}]\n")
    with pytest.raises(ConfigError, match=r"not valid YAML.*could not determine a constructor"):
        load_catalogue(path) if load == "catalogue" else load_experiment(str(path), Catalogue(models={}, benchmarks={}, gpus={}), {})
    assert not made.exists()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("field", ["experiment", "prompt", "benchmark's prompt", "model", "benchmark"])
def test_a_name_in_an_experiment_cannot_leave_its_folder(tmp_path, field, name):
    changes = {
        "experiment": {"name": name},
        "prompt": {"prompt": name},
        "benchmark's prompt": {"benchmarks": {"mapping": {"problems": 4, "prompt": name}}},
        "model": {"models": [name]},
        "benchmark": {"benchmarks": {name: {"problems": 4}}},
    }[field]
    with pytest.raises(ConfigError, match=r"String should|at least 1 character|at most 100"):  # refused as a name, not as unknown
        study(tmp_path, **changes)
    assert [p.name for p in tmp_path.iterdir()] == ["fake.yaml"]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("section", ["models", "benchmarks"])
def test_a_name_in_the_catalogue_cannot_leave_its_folder(tmp_path, section, name):
    entry = load_catalogue().model_dump(mode="json")
    entry[section][name] = dict(next(iter(entry[section].values())))
    entry[section][name].pop("name", None)
    (tmp_path / "models.yaml").write_text(json.dumps(entry))
    with pytest.raises(ConfigError, match=r"String should|at most 100"):
        load_catalogue(tmp_path / "models.yaml")
