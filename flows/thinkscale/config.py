"""Experiment files and the catalogue: what may be written in YAML, checked before anything is started.

Why: a typo that costs a GPU-day, or a budget that a model cannot hold, must be one clear error at the door.
What it does not do: no network, no GPU, no exit(), no change of anything it read; inside, everything is frozen.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from thinkscale.calculator import ToolName
from thinkscale.sources import ConfigError as ConfigError
from thinkscale.sources import GymBenchmark, HubBenchmark, Name, Positive, Strict

FLOWS = Path(__file__).resolve().parents[1]
PROMPTS = FLOWS.parent / "prompts"
CATALOGUE = FLOWS / "models.yaml"

RouteName = Literal["cut", "extend", "effort", "native", "tools"]
MetricName = Literal[
    "pass@k",
    "maj@k",
    "unforced pass@k",
    "best@k by answer_logprob",
    "vote@k by answer_logprob",
    "best@k by verifier_score",
    "vote@k by verifier_score",
]


class Shape(Strict):
    """A decoder's dimensions, under the names of the field (see `cost` for what they cost)."""

    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive
    head_dim: Positive
    intermediate_size: Annotated[int, Field(ge=0)]
    """Width of a dense MLP (0 where every layer is a mixture of experts)."""
    vocab_size: Positive
    tied: bool = False
    """Input and output embeddings share one matrix."""
    mlp_matrices: Literal[2, 3] = 3
    """3 for gated MLPs (SwiGLU), 2 for plain ones (Pythia)."""
    bias_parameters: Annotated[int, Field(ge=0)] = 0
    """Parameters outside matrices and the usual norms, in all (biases, extra norms, attention sinks, positions)."""
    norms_per_layer: Annotated[int, Field(ge=0)] = 2
    """Vectors of `hidden_size` per layer that normalise."""
    experts: Annotated[int, Field(ge=0)] = 0
    experts_per_token: Annotated[int, Field(ge=0)] = 0
    expert_size: Annotated[int, Field(ge=0)] = 0
    """Width of one expert."""
    expert_bias: Annotated[int, Field(ge=0)] = 0
    """Bias parameters of one expert."""
    sliding_window: Annotated[int, Field(ge=0)] = 0
    """Context of the layers with sliding attention; 0 for none."""
    sliding_layers: Annotated[int, Field(ge=0)] = 0
    """How many layers have sliding attention."""


class Thinking(Strict):
    """Where thinking begins and ends, as text that the model's own tokenizer turns into ids."""

    open: str = ""
    """Put after the chat template (unless the template already ends with it)."""
    close: str
    """Put after the thinking; what follows is the answer."""
    off: str | None = None
    """Stands for open + close at budget 0 where a model's maker wants another text there."""
    closes: bool = True
    """The model writes the first token of `close` by itself; otherwise end of text ends its thinking."""
    cue: Annotated[str, Field(min_length=1)] | None = None
    """With `closes: false`: text, as asked for by the prompt, by which the model says in plain prose that its answer comes; it ends the
    thinking, like end of text."""


class Sampling(Strict):
    """How tokens are drawn. Part of a trace set's identity."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """At most 2: vLLM refuses more."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = -1
    """-1: no limit."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __str__(self) -> str:
        return f"temperature={self.temperature:g},top_p={self.top_p:g},top_k={self.top_k},min_p={self.min_p:g}"


class Model(Strict):
    """One entry of the catalogue: where the weights are, how big they are, how the model thinks, what it needs."""

    name: Name
    family: str
    source: str
    """Folder (relative to `flows/` or absolute) or name on the model hub."""
    revision: str | None = None
    """Commit on the hub; None: not pinned, which the manifest records. A local folder is hashed instead."""
    params: Positive
    params_active: Positive
    params_non_embedding: Positive
    shape: Shape
    context: Positive
    """Longest prompt + completion in tokens."""
    training_tokens: Positive | None = None
    bits_per_byte: Annotated[float, Field(gt=0)] | None = None
    """Held-out loss where it is known to us (the ladder)."""
    thinking: Thinking
    sampling: Sampling = Sampling()
    """Recommended by the model's makers; an experiment may say otherwise."""
    chat: bool = True
    """The prompt goes through the chat template; otherwise it is plain text."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the chat template."""
    gpus: Positive = 1
    """GPUs for one engine: its tensor parallel size."""
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory that each of them should have."""
    minutes: Positive | None = None
    """Time limit of one job on a cluster; None: the pool's."""
    dtype: str = "auto"
    """dtype on GPUs; on CPU float32 is used."""
    reasoning_parser: str | None = None
    tool_parser: str | None = None
    """How the server reads the model's own way to call tools (vLLM's --tool-call-parser); only route `tools` needs it."""
    runner: Literal["generate", "pooling"] = "generate"
    """`pooling`: it scores texts and writes none, a sequence classifier or reward model with one class, or with that of right answers last
    (an experiment's `scorer`)."""
    engine_args: tuple[str, ...] = ()
    """Further flags of the engine's command line."""


class Gpu(Strict):
    """One kind of GPU, for estimates of time only."""

    tflops: Annotated[float, Field(gt=0)]
    """Dense bf16 peak in TFLOP/s."""
    bandwidth_tb: Annotated[float, Field(gt=0)]
    """Memory bandwidth in TB/s."""
    memory_gb: Annotated[float, Field(gt=0)]


class Catalogue(Strict):
    """`models.yaml`: every model, benchmark and GPU that an experiment may name."""

    models: dict[Name, Model]
    benchmarks: dict[Name, HubBenchmark]
    gym: dict[Name, GymBenchmark] = Field(default_factory=dict)
    gpus: dict[Name, Gpu]


class BenchmarkUse(Strict):
    """How much of a benchmark an experiment uses."""

    problems: Positive | None = None
    """The first so many problems; None: all of a hub benchmark."""
    prompt: Name | None = None
    """Prompt for this benchmark; None: the experiment's."""
    tool: ToolName | None = None
    """What the model may call while it thinks on this benchmark; the prompt must tell it how (see `prompts/calculator.jinja`)."""
    tool_calls: Positive = 8
    """How many calls are answered; what follows is text like any other."""


class PointRef(Strict):
    """One side of a claim."""

    model: Name
    thinking_budget: Annotated[int, Field(ge=0)]
    metric: MetricName = "pass@k"
    k: Positive = 1
    route: str | None = None
    """As in the column `route`, where there are several (`effort=low`)."""
    prompt: str | None = None
    """As in the column `prompt`, where there are several (`few-shot=2`)."""


class Claim(Strict):
    """A comparison named before the data are drawn: is `better` better than `worse` on the same problems?"""

    name: str
    benchmark: Name
    difficulty: float | None = None
    """Only the problems of this difficulty; None: all."""
    better: PointRef
    worse: PointRef


class Loss(Strict):
    """A text on which each model's loss is measured (see `loss`)."""

    text: str
    """Path, absolute or from flows/: plain text, or JSON lines with `text` and optionally `prompt`."""
    context: Annotated[int, Field(ge=2)] = 2048
    """Tokens at most that the model sees at once (a smaller context of its own counts)."""


class ThinkingUse(Strict):
    """How thinking is spent."""

    route: RouteName = "cut"
    """`cut`: ended at the budget. `extend`: the same, and where the model would close before, it is told to wait and goes on. `effort`: the
    model is told how much to think. `native`: the server ends it at the budget (vLLM's `thinking_token_budget`). `tools`: the model calls
    the benchmark's tool through the chat API, whose server reads the calls; each budget is drawn by itself."""
    wait: Name = "wait"
    """Of `extend`: the text in place of the close, a file `prompts/<name>.txt`."""
    times: Positive = 1
    """Of `extend`: how often."""
    levels: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Of `effort`: level -> arguments of the chat template."""


class Stop(Strict):
    """Adaptive sampling: drawing for a problem stops when its vote is settled (see `stopping`); `num_samples` is the most."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Posterior probability that the leading answer is the more probable one."""
    every: Positive = 4
    """Samples drawn before each look at the vote."""


class Engine(Strict):
    """How engines are started and watched. Not part of any identity: it must not change what is drawn."""

    command: tuple[str, ...] | None = None
    """Starts vLLM's OpenAI server, flags are added; None: the machine's THINKSCALE_ENGINE_COMMAND, else the vLLM of this environment."""
    base_url: str | None = None
    """A server that somebody else runs (its key in the variable THINKSCALE_API_KEY); nothing is started then."""
    start_timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds until the first real completion must have come back."""
    stall_timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without a new token, while requests wait, after which the engine counts as hung."""
    request_timeout: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds for one request."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How often a hung or dead engine is started again."""
    max_resubmits: Annotated[int, Field(ge=0)] = 3
    """With a pool of workers: how often a model's run is submitted again that was lost (it crashed, fell silent) and published nothing."""
    claim_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds of silence after which what another run has claimed counts as abandoned."""
    concurrency: Positive = 256
    """Sequences in flight; at 64 only one request of forced answers was, and the ladder's engine idled in between (a quarter slower)."""
    prompts_per_request: Positive = 64
    """Forced answers in one HTTP request (they are tiny: a request each costs more than its tokens)."""
    seed: int = 0


class Experiment(Strict):
    """One YAML file: models × benchmarks × thinking budgets × samples."""

    name: Name
    """Also the name of the results folder."""
    asks: str
    """The question that this experiment answers."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    benchmarks: Annotated[dict[Name, BenchmarkUse], Field(min_length=1)]
    prompt: Name = "question"
    examples: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Worked examples before the question; several: each number has cells of its own. The prompt says how they are shown."""
    thinking: ThinkingUse = ThinkingUse()
    thinking_budgets: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Caps on thinking tokens; 0 is thinking off."""
    num_samples: Positive
    answer_tokens: Positive
    """Cap on the answer, the same for every budget."""
    sampling: Sampling | None = None
    """None: what each model's makers recommend."""
    gold_logprob: bool = False
    """Score the gold answer in the place of every answer, drawn now or long ago (a one-token request for each of its tokens), and of a
    multiple-choice problem every choice: their probabilities, and the Brier score. Into a table of its own, `forced`."""
    greedy: bool = False
    """Draw one greedy sample besides, as cells of their own: a reference, never mixed with what is sampled."""
    problem_seed: int = 0
    """Seed of generated problems."""
    shard_problems: Positive = 50
    """Problems per shard: a shard is what is lost when an engine dies."""
    gpu: Name | None = None
    """Kind of GPU for `--plan`'s estimate of hours."""
    dollars_per_gpu_hour: Annotated[float, Field(gt=0)] | None = None
    """What a GPU costs you: makes dollars an axis of cost, from the GPU-seconds that were measured."""
    claims: tuple[Claim, ...] = ()
    loss: Loss | None = None
    """None: loss is not measured."""
    stop: Stop | None = None
    """None: all samples are drawn. Otherwise estimates that need a fixed number of samples are refused."""
    scorer: Name | None = None
    """A model of the catalogue with runner `pooling`, which reads every answer; None: answers are not scored."""
    engine: Engine = Engine()


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


_SAFE = re.compile(r"[^A-Za-z0-9._-]")


def file_name(*parts: str) -> str:
    """Parts joined as a file name; whatever is not a letter, digit, dot, dash or underscore becomes a dash."""
    return "-".join(_SAFE.sub("-", p) for p in parts)
