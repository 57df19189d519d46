"""The catalogue holds what it says, and a bad experiment file is one error that names file, key, what was found and the nearest name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from thinkscale import cost
from thinkscale.config import Catalogue, ConfigError, Model
from thinkscale.loading import load_catalogue, load_experiment, prompt_text
from thinkscale.problems import benchmarks
from thinkscale.sources import HubBenchmark

CATALOGUE = load_catalogue()
EXTENTS = {name: benchmark.extent for name, benchmark in benchmarks(CATALOGUE).items()}
HUB = [m for m in CATALOGUE.models.values() if not m.source.startswith(("ladder/", "many/", "prepared/"))]
PUBLISHED = {  # parameters as the makers' model cards or checkpoints count them
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "smollm2-135m": 134_515_008,
    "pythia-70m": 70_426_624,
    "pythia-12b": 11_846_072_320,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "gemma-3-1b": 999_885_952,
    "olmo-2-7b": 7_298_617_344,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}


@pytest.mark.parametrize("model", CATALOGUE.models.values(), ids=lambda m: m.name)
def test_every_models_parameters_are_its_shapes(model: Model) -> None:
    assert (model.params, model.params_active, model.params_non_embedding) == cost.parameters(model.shape)


@pytest.mark.parametrize(("name", "params"), PUBLISHED.items())
def test_parameters_are_the_published_ones(name: str, params: int) -> None:
    assert CATALOGUE.models[name].params == params


def test_non_embedding_and_active_parameters_are_the_published_ones() -> None:
    non_embedding = {"70m": 18_915_328, "410m": 302_311_424, "1.4b": 1_208_602_624, "12b": 11_327_027_200}
    for size, params in non_embedding.items():
        assert CATALOGUE.models[f"pythia-{size}"].params_non_embedding == params
    for size, billions in {"20b": 3.61, "120b": 5.13}.items():  # OpenAI counts the output matrix as active but not the embedding
        model = CATALOGUE.models[f"gpt-oss-{size}"]
        assert (model.params_active - model.shape.vocab_size * model.shape.hidden_size) / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_families_that_the_catalogue_promises() -> None:
    families: dict[str, int] = {}
    for model in HUB:
        families[model.family] = families.get(model.family, 0) + 1
    expected = {"Qwen3": 7, "Qwen2.5": 7, "SmolLM2": 3, "Pythia": 10, "Llama 3": 4, "Gemma 3": 5, "OLMo 2": 4, "gpt-oss": 2}
    assert {family: families.get(family, 0) for family in expected} == expected


@pytest.mark.parametrize("model", HUB, ids=lambda m: m.name)
def test_entries_are_sane(model: Model) -> None:
    assert model.source.count("/") == 1
    assert model.revision is None or (len(model.revision) == 40 and set(model.revision) <= set("0123456789abcdef"))
    assert model.context >= 2048
    assert model.training_tokens is None or 1e11 < model.training_tokens < 1e14
    assert model.params_non_embedding < model.params and model.params_active <= model.params
    assert model.shape.num_heads % model.shape.num_kv_heads == 0
    assert model.shape.num_heads % model.gpus == 0  # tensor parallel splits heads
    assert model.shape.sliding_layers < model.shape.num_layers and (model.shape.sliding_window > 0) == (model.shape.sliding_layers > 0)


@pytest.mark.parametrize("model", CATALOGUE.models.values(), ids=lambda m: m.name)
def test_thinking_has_tags_that_pair_or_a_cue(model: Model) -> None:
    thinking = model.thinking
    assert thinking.close.strip()
    if thinking.closes:
        assert thinking.open.strip()
        assert thinking.off is None or thinking.off.endswith(
            thinking.close[-11:]
        )  # the answer starts the same way with and without thinking
    else:
        assert not thinking.open
        assert not thinking.close.endswith(" ")  # a space would change how the answer's first token splits
        assert thinking.off is None or thinking.off == thinking.close.lstrip()


@pytest.mark.parametrize("model", [m for m in HUB if m.family != "gpt-oss"], ids=lambda m: m.name)  # its checkpoints hold experts in 4 bits
def test_the_named_gpus_hold_weights_and_one_context(model: Model) -> None:
    need = cost.BYTES * model.params + cost.kv_bytes_per_token(model.shape) * min(model.context, 32768)
    assert model.gpu_memory_gb is not None
    assert need <= model.gpus * model.gpu_memory_gb * 1e9 * cost.MEMORY_UTILISATION


def test_gsm8k_is_pinned() -> None:
    gsm8k = CATALOGUE.benchmarks["gsm8k"]
    assert (gsm8k.source, gsm8k.file, gsm8k.problems, gsm8k.grader) == ("openai/gsm8k", "main/test-00000-of-00001.parquet", 1319, "number")
    assert gsm8k.revision is not None and len(gsm8k.revision) == 40
    assert gsm8k.answer_after == "####"


@pytest.mark.parametrize("hub", CATALOGUE.benchmarks.values(), ids=lambda h: h.source)
def test_every_file_of_the_hub_is_pinned_to_a_commit(hub: HubBenchmark) -> None:
    assert hub.revision is not None and len(hub.revision) == 40


def test_gpus_are_named_with_plausible_figures() -> None:
    assert {"H100", "A100", "H200", "L40S", "B200", "RTX-4090"} <= set(CATALOGUE.gpus)
    for gpu in CATALOGUE.gpus.values():
        assert 100 < gpu.tflops / gpu.bandwidth_tb < 500  # FLOPs per byte


def test_on_and_off_are_words_in_our_yaml(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "models:\n  m:\n    family: f\n    source: a/b\n    params: 1\n    params_active: 1\n    params_non_embedding: 1\n    context: 10\n"
        "    shape: {hidden_size: 1, num_layers: 1, num_heads: 1, num_kv_heads: 1, head_dim: 1, intermediate_size: 1, vocab_size: 1,\n"
        "            tied: true}\n"
        "    thinking: {open: on, close: no, off: off, closes: false}\nbenchmarks: {}\ngpus: {}\n"
    )
    model = load_catalogue(tmp_path / "c.yaml").models["m"]
    assert (model.thinking.open, model.thinking.close, model.thinking.off, model.thinking.closes) == ("on", "no", "off", False)
    assert model.shape.tied is True


# --- experiments ---

GOOD: dict[str, Any] = {
    "name": "mine",
    "asks": "Does it?",
    "models": ["qwen3-0.6b", "qwen3-8b"],
    "benchmarks": {"gsm8k": {"problems": 10}},
    "thinking_budgets": [0, 1024],
    "num_samples": 8,
    "answer_tokens": 64,
    "gpu": "H100",
    "claims": [
        {
            "name": "small beats large",
            "benchmark": "gsm8k",
            "better": {"model": "qwen3-0.6b", "thinking_budget": 1024, "metric": "maj@k", "k": 8},
            "worse": {"model": "qwen3-8b", "thinking_budget": 0},
        }
    ],
}


def load(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_experiment(str(path), CATALOGUE, EXTENTS)


def with_change(keys: tuple[str | int, ...], value: Any) -> str:
    raw = yaml.safe_load(yaml.safe_dump(GOOD))
    node = raw
    for key in keys[:-1]:
        node = node[key]
    if value is ...:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return yaml.safe_dump(raw)


def test_a_good_experiment_loads(tmp_path: Path) -> None:
    experiment = load(tmp_path, yaml.safe_dump(GOOD))
    assert experiment.models == ("qwen3-0.6b", "qwen3-8b")
    assert experiment.benchmarks["gsm8k"].problems == 10
    assert experiment.claims[0].worse.k == 1
    assert prompt_text(experiment.prompt)


BAD: list[tuple[tuple[str | int, ...], Any, tuple[str, ...]]] = [  # where, what stands there, what the error must say
    (("num_sample",), 3, ("unknown key 'num_sample'", "Did you mean 'num_samples'?")),
    (("benchmarks", "gsm8k", "problem"), 3, ("unknown key 'benchmarks.gsm8k.problem'", "Did you mean 'problems'?")),
    (("claims", 0, "better", "modle"), "x", ("unknown key 'claims.0.better.modle'", "Did you mean 'model'?")),
    (("engine",), {"concurency": 1}, ("unknown key 'engine.concurency'", "Did you mean 'concurrency'?")),
    (("sampling",), {"temprature": 1}, ("unknown key 'sampling.temprature'", "Did you mean 'temperature'?")),
    (("num_samples",), ..., ("num_samples", "required")),
    (("num_samples",), "many", ("num_samples", "integer", "found 'many'")),
    (("claims",), [GOOD["claims"][0]] * 2, ("claims", "'small beats large' is given twice")),
    (("num_samples",), 2.5, ("num_samples", "integer", "found 2.5")),
    (("num_samples",), 0, ("num_samples", "greater than 0", "found 0")),
    (("num_samples",), True, ("num_samples", "integer", "found True")),
    (("thinking_budgets",), [0, -5], ("thinking_budgets.1", "greater than or equal to 0", "found -5")),
    (("thinking_budgets",), 1024, ("thinking_budgets", "found 1024")),
    (("thinking_budgets",), [], ("thinking_budgets", "at least 1", "found []")),
    (("thinking_budgets",), [0, 1024, 0], ("thinking_budgets", "'0' is given twice")),
    (("models",), ["qwen3-0.6b", "qwen3-8b", "qwen3-0.6b"], ("models", "'qwen3-0.6b' is given twice")),
    (("models",), ["qwen3-06b"], ("models", "unknown model 'qwen3-06b'", "Did you mean 'qwen3-0.6b'?")),
    (("benchmarks",), {"gsm8": {}}, ("benchmarks", "unknown benchmark 'gsm8'", "Did you mean 'gsm8k'?")),
    (
        ("benchmarks",),
        {"gsm8k": {"prompt": "qestion"}},
        ("benchmarks.gsm8k.prompt", "unknown prompt 'qestion'", "Did you mean 'question'?"),
    ),
    (("prompt",), "questoin", ("unknown prompt 'questoin'", "Did you mean 'question'?")),
    (("thinking",), {"route": "cutt"}, ("thinking.route", "'cut'", "found 'cutt'")),
    (("gpu",), "H10", ("gpu", "unknown GPU 'H10'", "Did you mean 'H100'?")),
    (("name",), "a/b", ("name", "found 'a/b'")),
    (("benchmarks", "gsm8k", "problems"), 1320, ("benchmarks.gsm8k.problems", "found 1320", "has 1319")),
    (("thinking_budgets",), [0, 1024, 50000], ("thinking_budgets", "50000", "qwen3-0.6b", "40960", "Lower")),
    (("claims", 0, "better", "k"), 16, ("claims.small beats large.better.k", "16", "num_samples = 8")),
    (("claims", 0, "better", "k"), 3, ("claims.small beats large.better.k", "found 3", "powers of two")),
    (("claims", 0, "better", "metric"), "best@k", ("claims.0.better.metric", "maj@k", "found 'best@k'")),
    (
        ("claims", 0, "better", "model"),
        "qwen3-4b",
        ("claims.small beats large.better.model", "unknown model", "'qwen3-4b'", "Did you mean"),
    ),
    (("claims", 0, "worse", "thinking_budget"), 512, ("claims.small beats large.worse.thinking_budget", "'512'", "1024")),
    (("claims", 0, "benchmark"), "gsm", ("claims.small beats large.benchmark", "'gsm'", "Did you mean 'gsm8k'?")),
    (("claims", 0, "better", "prompt"), "qestion", ("claims.small beats large.better.prompt", "'qestion'", "Did you mean 'question'?")),
    (
        ("claims", 0, "worse", "prompt"),
        "few-shot-bare=1",
        ("claims.small beats large.worse.prompt", "'few-shot-bare=1'", "Valid: question."),
    ),
    (("claims", 0, "worse", "route"), "cutt", ("claims.small beats large.worse.route", "unknown route", "'cutt'", "Did you mean 'cut'?")),
    (("engine",), {"stall_timeout": float("inf")}, ("engine.stall_timeout", "finite", "found inf")),
    (("claims", 0, "difficulty"), float("nan"), ("claims.0.difficulty", "finite", "found nan")),
    (("claims", 0, "worse"), GOOD["claims"][0]["better"], ("claims.small beats large.worse", "the same point as `better`")),
    (("sampling",), {"temperature": 0}, ("num_samples", "temperature 0", "found 8")),
    (("sampling",), {"temperature": -1}, ("sampling.temperature", "found -1")),
]


@pytest.mark.parametrize(("keys", "value", "said"), BAD, ids=[f"{'.'.join(map(str, k))}={v}" for k, v, _ in BAD])
def test_one_error_names_file_key_what_was_found_and_the_nearest_name(
    tmp_path: Path, keys: tuple[str | int, ...], value: Any, said: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, with_change(keys, value))
    message = str(error.value)
    assert message.startswith("mine.yaml: ")
    for part in said:
        assert part in message, message
    assert "\n" not in message and "pydantic" not in message and message.endswith((".", "?"))


SIDE = {"model": "qwen3-0.6b", "thinking_budget": 1024}
LEVELS = {"low": {"reasoning_effort": "low"}, "high": {"reasoning_effort": "high"}}


@pytest.mark.parametrize(
    ("changes", "better", "worse", "said"),
    [
        (
            {"prompt": "few-shot", "examples": [0, 2]},
            {},
            {"thinking_budget": 0},
            r"better: fits 2 cells \(prompt: few-shot; prompt: few-shot=2\)",
        ),
        ({"prompt": "few-shot", "examples": [0, 2]}, {"prompt": "few-shot=2"}, {"prompt": "few-shot"}, ""),
        ({"prompt": "few-shot", "examples": [2]}, {}, {"thinking_budget": 0, "prompt": "few-shot=2"}, ""),
        ({"prompt": "few-shot", "examples": [2]}, {}, {"prompt": "few-shot=2"}, "worse: found the same point"),
        ({}, {"prompt": "question", "route": "cut"}, {}, "worse: found the same point"),
        ({}, {"metric": "maj@k"}, {"metric": "pass@k"}, "worse: found the same point"),
        ({}, {"metric": "unforced pass@k"}, {}, ""),
        ({}, {"metric": "maj@k", "k": 8}, {}, ""),
        ({"greedy": True}, {}, {"thinking_budget": 0}, ""),
        (
            {"greedy": True, "num_samples": 1, "sampling": {"temperature": 0, "top_p": 0.9}},
            {},
            {"thinking_budget": 0},
            r"better: fits 2 cells \(sampling: .*\. Leave out `greedy`",
        ),
        ({"thinking": {"route": "native"}}, {}, {"thinking_budget": 0}, ""),
        (
            {"thinking": {"route": "effort", "levels": LEVELS}, "thinking_budgets": [1024]},
            {"route": "effort=high"},
            {"route": "effort=low"},
            "",
        ),
        (
            {"thinking": {"route": "effort", "levels": LEVELS}, "thinking_budgets": [1024]},
            {"route": "effort=high"},
            {},
            r"worse: fits 2 cells \(route: effort=high; route: effort=low\)\. Say `route`\.",
        ),
        (
            {"thinking": {"route": "effort", "levels": LEVELS}, "thinking_budgets": [1024]},
            {"route": "effort=hi"},
            {},
            "Did you mean 'effort=high'",
        ),
    ],
)
def test_each_side_of_a_claim_is_one_cell_and_they_differ(
    tmp_path: Path, changes: dict[str, Any], better: dict[str, Any], worse: dict[str, Any], said: str
) -> None:
    claim = {"name": "c", "benchmark": "gsm8k", "better": SIDE | better, "worse": SIDE | worse}
    text = yaml.safe_dump(GOOD | changes | {"claims": [claim]})
    if not said:
        assert len(load(tmp_path, text).claims) == 1
        return
    with pytest.raises(ConfigError, match=rf"^mine\.yaml: claims\.c\..*{said}"):
        load(tmp_path, text)


@pytest.mark.parametrize("written", ["010", "-010", "00", "1:30", "1:30.5", "12:30:00", "!!int '010'"])
def test_a_number_that_yaml_reads_in_another_base_than_people_is_refused(tmp_path: Path, written: str) -> None:
    text = yaml.safe_dump(GOOD | {"num_samples": 8}).replace("num_samples: 8", f"num_samples: {written}")
    with pytest.raises(
        ConfigError, match=r"^mine\.yaml, line \d+: .* would be read in base (8|60): write a decimal number, or '.*' in quotes"
    ):
        load(tmp_path, text)


def test_numbers_that_are_read_as_written_stay(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD | {"name": "010", "asks": "1:30"}).replace("num_samples: 8", "num_samples: 1_6")
    experiment = load(tmp_path, text.replace("1024", "0x400"))
    assert (experiment.name, experiment.asks, experiment.num_samples, experiment.thinking_budgets) == ("010", "1:30", 16, (0, 1024))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
"""Ten lines that stand for ten billion values."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "mine.yaml, line 2: not valid YAML: key 'name' is given twice."),
        (BOMB, "mine.yaml, line 5: not valid YAML: with its anchors (&) written out this is more than 100,000 values."),
        ("a: &a\n  - [*a]\n", "mine.yaml, line 2: not valid YAML: with its anchors (&) written out this is more than 100,000 values."),
        ("[" * 5000, "mine.yaml: not a YAML file in UTF-8: maximum recursion depth exceeded"),
        (
            "name: [unclosed\nmodels: 1\n",
            "mine.yaml, line 2: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'.",
        ),
        ("- a\n- b\n", "expected keys and values, as `name: my-experiment`, found ['a', 'b']."),
        ("", "expected keys and values, as `name: my-experiment`, found nothing."),
        ("name: \x00\n", "mine.yaml: not a YAML file in UTF-8"),
        ("name: mine\nasks: 2026-01-01\n", "neither text, number"),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_files_that_are_no_experiment(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^mine\.yaml[:,] ") as error:
        load(tmp_path, text)
    assert said in str(error.value)


def test_a_file_that_is_not_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"^mine\.yaml: not a YAML file in UTF-8: .*byte 0xff"):
        load_experiment(str(tmp_path / "mine.yaml"), CATALOGUE, EXTENTS)


def test_unknown_experiments_name_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match="no experiment 'nanoo'"):
        load_experiment("nanoo", CATALOGUE, EXTENTS)
    with pytest.raises(ConfigError, match=r"no file 'nowhere/x\.yaml'"):
        load_experiment("nowhere/x.yaml", CATALOGUE, EXTENTS)


def test_a_prompt_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'question'"):
        prompt_text("questions")


def test_the_catalogue_is_as_strict_as_experiments(tmp_path: Path) -> None:
    raw = {"models": {"m": {"family": "f", "sorce": "a/b"}}, "benchmarks": {}, "gpus": {}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"^models\.yaml: "):
        load_catalogue(tmp_path / "models.yaml")


def test_the_catalogue_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        CATALOGUE.models["qwen3-8b"].context = 1  # type: ignore[misc]
    assert isinstance(CATALOGUE, Catalogue)
