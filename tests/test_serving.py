import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import shared_memory
from pathlib import Path

import httpx
import pytest

from fakes import eventually, run_fake, study
from thinkscale import launch, supervise
from thinkscale.config import ConfigError, Engine, Model, Sampling, Shape, Thinking
from thinkscale.endpoint import (
    Client,
    Endpoint,
    EngineDied,
    EngineHung,
    EngineNotStarted,
    RequestFailed,
    RequestRefused,
    ResponseInvalid,
    Vitals,
    check_choices,
    parse_metrics,
)
from thinkscale.serving import serve, start

HERE = Path(__file__).resolve().parent
FAKE = (sys.executable, str(HERE / "fake_vllm.py"))
PROMPT = (2, 7, 8, 40, 9, 3, 4)


def model(*engine_args, **changes):
    shape = Shape(hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32, intermediate_size=80, vocab_size=64)
    fields = {"name": "fake-100k", "family": "fake", "source": "org/fake-100k", "shape": shape, "context": 256}
    fields |= {"params": 100_000, "params_active": 100_000, "params_non_embedding": 96_000}
    fields |= {"thinking": Thinking(open="<think>", close="</think>")}
    return Model(**{**fields, "engine_args": engine_args, **changes})


def fault(**spec):
    return ("--fault", json.dumps(spec))


def engine(**changes):
    return Engine(command=FAKE, **{"start_timeout": 20.0, "stall_timeout": 60.0, "request_timeout": 20.0, **changes})


def complete(endpoint, prompts=(PROMPT,), n=2, max_tokens=20, **client):
    async def go():
        async with Client(endpoint, **{"request_timeout": 20.0, "backoff": 0.01, "attempts": 3, **client}) as c:
            return await c.complete(prompts, n, max_tokens, Sampling())

    return asyncio.run(go())


def ask(endpoint, method, *args, **kwargs):
    async def go():
        async with Client(endpoint) as c:
            return await getattr(c, method)(*args, **kwargs)

    return asyncio.run(go())


def set_fault(endpoint, **spec):
    httpx.post(f"{endpoint.base_url}/fake/fault", json=spec, trust_env=False).raise_for_status()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def port_is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return s.connect_ex(("127.0.0.1", port)) != 0 and s.bind(("127.0.0.1", port)) is None


class Files:
    """Shared memory, semaphore and temporary file of the fake's child."""

    def __init__(self, *names):
        self.paths = [Path("/dev/shm", name) for name in names]

    def exist(self):
        return any(path.exists() for path in self.paths)


def wait_for_children(log):
    """What `--children` said: ids of child and grandchild, and their files."""
    assert eventually(lambda: "fake: children" in log.read_text())
    line = next(line for line in log.read_text().splitlines() if line.startswith("fake: children"))
    first, second, *names = line.split()[2:]
    assert alive(int(first)) and alive(int(second)) and all(path.exists() for path in Files(*names).paths)
    return int(first), int(second), Files(*names)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with serve(model(), engine(), tmp_path_factory.mktemp("logs"), seed=0, device="gpu") as found:
        yield found


@pytest.fixture
def healed(endpoint):
    yield endpoint
    set_fault(endpoint)


# --- the protocol


def test_tokenize_and_detokenize_are_inverse_and_know_the_chat_template(endpoint):
    ids = ask(endpoint, "tokenize", "<think>12+3 </think>\n")
    assert ids[0] == 4 and ask(endpoint, "detokenize", ids) == "<think>12+3 </think>\n"
    assert ask(endpoint, "tokenize", [{"role": "user", "content": "1"}]) == [2, 7, 3]
    assert ask(endpoint, "tokenize", [{"role": "user", "content": "1"}], add_generation_prompt=False) == [2, 7]


def test_choices_come_in_the_order_of_the_prompts_whatever_they_are_batched_with(endpoint):
    prompts = [(2, 6 + i, 3, 4) for i in range(5)]
    together = complete(endpoint, prompts, n=3)
    assert [c.prompt_index for c in together] == [i for i in range(5) for _ in range(3)]
    alone = [c._replace(prompt_index=i) for i, p in enumerate(prompts) for c in complete(endpoint, [p], n=3)]
    assert together == alone


def test_a_shorter_cap_gives_a_prefix_of_the_same_tokens(endpoint):
    for short, long in zip(complete(endpoint, n=8, max_tokens=5), complete(endpoint, n=8, max_tokens=60), strict=True):
        assert short.token_ids == long.token_ids[:5] and len(short.token_ids) <= 5
        assert (short.finish_reason == "length") == (len(long.token_ids) > 5 or long.finish_reason == "length")


def test_a_seed_per_request_changes_the_tokens_and_is_refused_where_it_would_kill_the_engine(endpoint):
    first, again, other = (ask(endpoint, "complete", [PROMPT], 4, 20, Sampling(), seed=s) for s in (1, 1, 2))
    assert first == again != other
    cpu = Endpoint(endpoint.base_url, endpoint.api_key, endpoint.model, "cpu", None, False, Vitals(owned=False))
    with pytest.raises(ValueError, match="kills vLLM's CPU engine"):
        ask(cpu, "complete", [PROMPT], 1, 4, Sampling(), seed=1)


def test_stop_token_ids_end_a_choice_and_are_named(endpoint):
    choices = ask(endpoint, "complete", [PROMPT], 8, 200, Sampling(), stop_token_ids=[5])
    closed = [c for c in choices if c.stop_reason == 5]
    assert closed and all(c.token_ids[-1] == 5 and 5 not in c.token_ids[:-1] and "</think>" not in c.text for c in closed)


def test_repeated_prompts_hit_the_prefix_cache_in_the_metrics(endpoint):
    prompt = [2, *(6 + i % 10 for i in range(70)), 3]
    before = ask(endpoint, "metrics")
    complete(endpoint, [prompt, prompt], n=1)
    after = ask(endpoint, "metrics")
    assert after["prefix_cache_hits"] - before["prefix_cache_hits"] == 64
    assert after["generation_tokens"] > before["generation_tokens"] and after["num_requests_running"] == 0


def test_metrics_are_summed_over_labels_and_histograms_left_out():
    lines = [
        "# HELP x",
        'vllm:a_total{engine="0"} 1.0',
        'vllm:a_total{engine="1"} 2.5e+1',
        'vllm:b_bucket{le="1"} 4',
        "vllm:c 3",
        "python_x 1",
    ]
    assert parse_metrics("\n".join(lines)) == {"a": 26.0, "c": 3.0}


# --- requests that fail


@pytest.mark.parametrize(
    "spec",
    [{"kind": "500"}, {"kind": "503"}, {"kind": "429"}, {"kind": "reset"}, {"kind": "cut_body"}, {"kind": "not_json"}],
    ids=lambda s: s["kind"],
)
def test_what_passes_is_tried_again_and_what_stays_is_a_failed_request(healed, spec):
    expected = complete(healed)
    set_fault(healed, **spec, times=2)
    assert complete(healed) == expected
    set_fault(healed, **spec)
    with pytest.raises(RequestFailed, match="failed 3 times"):
        complete(healed)


def test_a_server_that_asks_for_patience_gets_it(healed):
    set_fault(healed, kind="429", retry_after=1, times=1)
    begin = time.monotonic()
    complete(healed)
    assert time.monotonic() - begin >= 1


def test_a_request_without_an_answer_is_given_up_after_its_timeout(healed):
    set_fault(healed, kind="slow", seconds=3, times=2)
    with pytest.raises(RequestFailed, match=r"no answer within 0\.3 s"):
        complete(healed, request_timeout=0.3, attempts=2)


@pytest.mark.parametrize(
    ("prompts", "max_tokens", "message"),
    [([[999]], 4, "HTTP 400.*vocabulary"), ([PROMPT * 40], 4, "HTTP 400.*maximum context")],
    ids=["token", "context"],
)
def test_a_wrong_request_is_refused_at_once_with_the_servers_words(endpoint, prompts, max_tokens, message):
    with pytest.raises(RequestRefused, match=message):
        complete(endpoint, prompts, max_tokens=max_tokens)


@pytest.mark.parametrize(("change", "status"), [({"api_key": "wrong"}, 401), ({"model": "other"}, 404)], ids=["key", "model"])
def test_a_wrong_key_or_model_is_refused(endpoint, change, status):
    fields = {"base_url": endpoint.base_url, "api_key": endpoint.api_key, "model": endpoint.model, **change}
    with pytest.raises(RequestRefused, match=f"HTTP {status}"):
        complete(Endpoint(**fields, engine="", log=None, seeds=True, vitals=Vitals(owned=False)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("wrong_n", "1 prompts × 2 choices, got 1"),
        ("empty", "choice 0 is empty"),
        ("wrong_usage", "usage says"),
        ("ignore_cap", "the cap was 3"),
        ("swap", "answers another prompt"),
    ],
)
def test_an_answer_that_does_not_add_up_is_an_error_never_data(healed, kind, message):
    set_fault(healed, kind=kind)
    prompts = [PROMPT, (2, 9, 3, 4)] if kind == "swap" else [PROMPT]
    with pytest.raises(ResponseInvalid, match=message):
        complete(healed, prompts, max_tokens=3)


def test_a_cap_that_the_server_lowered_in_silence_because_the_context_is_full_is_an_error(endpoint):
    with pytest.raises(ResponseInvalid, match=r"cut after \d+ tokens, the cap was 250: the prompt of 7 tokens leaves no more room"):
        complete(endpoint, n=64, max_tokens=250)  # some of 64 never close their thinking


def test_a_garbled_answer_is_invalid():
    for answer in ({}, {"choices": [{"index": 0}], "usage": {"completion_tokens": 0}}, {"choices": None}):
        with pytest.raises(ResponseInvalid):
            check_choices(answer, [[1]], 1, 5)


# --- engines that fail


def test_a_dead_engine_is_reported_at_once_with_its_last_words_and_never_asked_again(tmp_path):
    with serve(
        model(*fault(kind="crash", after=2)), engine(), tmp_path, seed=0, device="gpu"
    ) as endpoint:  # the first was the one that said ready
        complete(endpoint)
        begin = time.monotonic()
        with pytest.raises(EngineDied, match=r"ended with status 137.*\n.*(\n.*)*fake: crash"):
            complete(endpoint, attempts=50, backoff=1.0)
        with pytest.raises(EngineDied):
            complete(endpoint)
        assert time.monotonic() - begin < 5


def test_all_requests_in_flight_hear_of_the_death(tmp_path):
    async def crowd(endpoint):
        async with Client(endpoint, backoff=0.1) as c:
            jobs = [c.complete([(2, 6 + i % 50, 3, 4)], 2, 20, Sampling()) for i in range(40)]
            return await asyncio.gather(*jobs, return_exceptions=True)

    with serve(model(*fault(kind="crash", after=10)), engine(), tmp_path, seed=0, device="gpu") as endpoint:
        results = asyncio.run(crowd(endpoint))
    assert {type(r) for r in results} <= {list, EngineDied} and any(isinstance(r, EngineDied) for r in results)


@pytest.mark.parametrize("kind", ["hang", "freeze"])
def test_a_hung_engine_is_found_and_killed_and_the_message_says_what_was_seen(tmp_path, kind):
    with serve(model(*fault(kind=kind, after=1)), engine(stall_timeout=0.6), tmp_path, seed=0, device="gpu") as endpoint:
        time.sleep(0.9)  # nothing waits: that is no hang
        assert endpoint.vitals.failure is None
        with pytest.raises(EngineHung, match=r"1 requests wait and no token came for [1-9] s"):
            complete(endpoint)
        port = httpx.URL(endpoint.base_url).port
        assert eventually(lambda: port_is_free(port), 15 if kind == "freeze" else 5)


def test_a_slow_engine_that_still_makes_tokens_is_not_hung(tmp_path):
    async def trickle(endpoint):
        async with Client(endpoint) as c:
            await asyncio.gather(*(_later(i * 0.4, c.complete([(2, 6 + i, 3, 4)], 1, 5, Sampling())) for i in range(4)))

    async def _later(seconds, job):
        await asyncio.sleep(seconds)
        return await job

    with serve(model(*fault(kind="slow", seconds=0.8, after=1)), engine(stall_timeout=1.5), tmp_path, seed=0, device="gpu") as endpoint:
        asyncio.run(trickle(endpoint))
        assert endpoint.vitals.failure is None


def test_an_engine_that_dies_at_start_shows_the_command_and_its_last_words_but_not_the_key(tmp_path):
    with pytest.raises(EngineNotStarted) as caught, serve(model(*fault(kind="die_at_start")), engine(), tmp_path, seed=7, device="gpu"):
        pass
    message = str(caught.value)
    assert "ended with status 1" in message and "no weights in this folder" in message
    assert "VLLM_API_KEY=..." in message and "fake_vllm.py --model org/fake-100k" in message and "--seed 7" in message


@pytest.mark.parametrize(("lines", "named"), [(0, False), (60, True)])
def test_the_first_error_of_an_engine_is_told_where_its_last_words_are_of_others(tmp_path, lines, named):
    fails = model(*fault(kind="die_at_start", lines=lines))
    with pytest.raises(EngineNotStarted) as caught, serve(fails, engine(), tmp_path, seed=0, device="gpu"):
        pass
    message = str(caught.value)
    assert message.count("no weights in this folder") == 1 and "See root cause above." in message
    assert ("first names 'RuntimeError: no weights in this folder', and ends:" in message) == named


def test_an_engine_that_is_never_ready_is_given_up_after_the_timeout_and_told_of_meanwhile(tmp_path):
    told = []
    with (
        pytest.raises(EngineNotStarted, match=r"no completion within 2\.2 s.*health answers 503"),
        serve(model(*fault(kind="never_ready")), engine(start_timeout=2.2), tmp_path, seed=0, device="gpu", on_progress=told.append),
    ):
        pass
    assert "fake-100k: engine starting, 2 s" in told


def test_an_engine_that_is_late_is_waited_for(tmp_path):
    told = []
    with serve(model(*fault(kind="late", seconds=0.8)), engine(), tmp_path, seed=0, device="gpu", on_progress=told.append) as endpoint:
        assert complete(endpoint) and endpoint.engine == "vllm fake auto gpu"
    assert told[-1].startswith("fake-100k: engine ready after")


def test_a_command_that_does_not_exist_is_one_clear_error(tmp_path):
    with (
        pytest.raises(EngineNotStarted, match="cannot run /no/such/vllm"),
        serve(model(), Engine(command=("/no/such/vllm",)), tmp_path, seed=0, device="gpu"),
    ):
        pass


def test_a_restart_keeps_the_first_log_and_a_fault_that_passed_stays_away(tmp_path):
    crash_once = model(*fault(kind="crash", after=1, once=str(tmp_path / "crashed")))
    with serve(crash_once, engine(), tmp_path, seed=0, device="gpu") as endpoint, pytest.raises(EngineDied):
        complete(endpoint)
    with serve(crash_once, engine(), tmp_path, seed=0, device="gpu") as endpoint:
        assert complete(endpoint)
    assert sorted(p.name for p in tmp_path.glob("*.log")) == ["fake-100k-1.log", "fake-100k-2.log"]


def test_a_server_that_somebody_else_runs_is_used_and_left_alone(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKSCALE_API_KEY", endpoint.api_key)
    theirs = Engine(base_url=f"{endpoint.base_url}/v1", start_timeout=5.0)
    with serve(model(), theirs, tmp_path, seed=0) as found:
        assert complete(found) == complete(endpoint) and found.log is None
    assert complete(endpoint) and not list(tmp_path.iterdir())
    monkeypatch.setenv("THINKSCALE_API_KEY", "wrong")
    with pytest.raises(EngineNotStarted, match=r"401.*THINKSCALE_API_KEY"), serve(model(), theirs, tmp_path, seed=0):
        pass


# --- nothing is left


def test_the_key_is_neither_in_the_arguments_nor_in_the_log_nor_in_a_repr(tmp_path):
    with serve(model("--children"), engine(), tmp_path, seed=0, device="gpu") as endpoint:
        complete(endpoint)
        wait_for_children(endpoint.log)
        arguments = [
            Path(f"/proc/{p.pid}/cmdline").read_bytes()
            for p in supervise.process_table()
            if p.parent == os.getpid() or p.session != os.getsid(0)
        ]
        assert any(b"fake_vllm.py" in a for a in arguments) and not any(endpoint.api_key.encode() in a for a in arguments)
    assert len(endpoint.api_key) >= 32 and endpoint.api_key not in endpoint.log.read_text() and endpoint.api_key not in repr(endpoint)


@pytest.mark.parametrize("how", ["normal exit", "exception", "crash", "supervisor killed"])
def test_nothing_is_left_after(how, tmp_path):
    spec = fault(kind="crash", after=1) if how == "crash" else ()
    expected = pytest.raises(ZeroDivisionError) if how == "exception" else contextlib.nullcontext()
    with expected, serve(model("--children", *spec), engine(), tmp_path, seed=0, device="gpu") as endpoint:
        *pids, files = wait_for_children(endpoint.log)
        if how == "exception":
            raise ZeroDivisionError
        if how == "crash":
            with pytest.raises(EngineDied):
                complete(endpoint)
        if how == "supervisor killed":
            os.kill(
                next(p.pid for p in supervise.process_table() if p.parent == os.getpid() and p.pid == os.getsid(pids[0])), signal.SIGKILL
            )
            with pytest.raises(EngineDied):
                for _ in range(200):  # the kernel may take a moment to kill the engine after its supervisor: until then it answers
                    complete(endpoint)
                    time.sleep(0.05)
    port = httpx.URL(endpoint.base_url).port
    gone = pids[:1] if how == "supervisor killed" else pids  # with it goes the knowledge of who left the session, and of the shared memory
    assert port_is_free(port) and not any(map(alive, gone))  # at once, not eventually
    if how == "supervisor killed":
        supervise.send([p for p in pids if alive(p)], signal.SIGKILL)
        for path in files.paths[:2]:
            path.unlink()
    assert not files.exist()


BRIEF = """
import mmap, os, signal, time
name = "brief-" + os.urandom(6).hex()
descriptor = os.open("/dev/shm/" + name, os.O_CREAT | os.O_RDWR)
os.ftruncate(descriptor, 4096)
memory = mmap.mmap(descriptor, 4096)
os.close(descriptor)
print(name, flush=True)
time.sleep({lives})
os.kill(os.getpid(), signal.SIGKILL)
"""


def brief(code):
    """What a supervisor said of such a process, and the name of its shared memory."""
    process = subprocess.Popen([sys.executable, *code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.wait(20) == 128 + signal.SIGKILL
    process.stdin.close()
    with process.stdout as out, process.stderr as said:
        return said.read(), out.read().strip()


MAKES_MORE = """
import os, time
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None  # nobody but the supervisor removes them
kept = []
while True:
    kept.append(shared_memory.SharedMemory(create=True, size=64))
    os.write(1, kept[-1].name.encode() + b"\\n")
    time.sleep(0.0005)
"""


def test_shared_memory_that_is_made_until_the_very_end_is_removed(tmp_path):
    supervisor = [sys.executable, "-I", "-S", supervise.__file__, "--", sys.executable, "-c", MAKES_MORE]
    with (tmp_path / "made").open("wb") as made:
        process = subprocess.Popen(supervisor, stdin=subprocess.PIPE, stdout=made, start_new_session=True)
        assert eventually(lambda: (tmp_path / "made").read_text().count("\n") > 30)
        process.stdin.close()
        process.wait(30)
    names = (tmp_path / "made").read_text().split()
    left = {name for name in names if (Path("/dev/shm") / name).exists()}
    for name in left:
        (Path("/dev/shm") / name).unlink()
    assert len(names) > 30 and not left


def test_shared_memory_of_a_process_that_dies_at_once_is_removed():
    """Long before the supervisor would look by itself."""
    for _ in range(3):
        said, name = brief([supervise.__file__, "--", sys.executable, "-c", BRIEF.format(lives=supervise.TICK / 5)])
        assert not (supervise.SHM / name).exists() and f"removed {name} from" in said


def test_a_supervisor_that_is_not_told_of_new_files_looks_from_time_to_time():
    code = f"""
import sys
sys.path.insert(0, {str(Path(supervise.__file__).parent)!r})
import supervise
supervise.tell_of_new_files = lambda folder: []
sys.exit(supervise.supervise([sys.executable, "-c", {BRIEF.format(lives=4 * supervise.TICK)!r}], 1.0, None))
"""
    said, name = brief(["-c", code])
    assert not (supervise.SHM / name).exists() and f"removed {name} from" in said


PARENT = """
import signal, sys, time
sys.path[:0] = [{flows!r}, {tests!r}]
from pathlib import Path
from test_serving import engine, model
from thinkscale.serving import serve

class Terminated(BaseException):
    pass

def terminate(*_):
    raise Terminated

if {handler}:
    signal.signal(signal.SIGTERM, terminate)  # as Prefect does
with serve(model("--children"), engine(), Path({logs!r}), seed=0, device="gpu") as endpoint:
    print(endpoint.base_url, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "handler", "to_group"),
    [
        (signal.SIGTERM, True, False),
        (signal.SIGTERM, False, False),
        (signal.SIGINT, False, True),
        (signal.SIGKILL, False, False),
        (signal.SIGKILL, False, True),
    ],
    ids=["SIGTERM as under Prefect", "SIGTERM unhandled", "Ctrl-C", "SIGKILL", "SIGKILL to the group"],
)
def test_nothing_is_left_when_the_flow_gets(number, handler, to_group, tmp_path):
    code = PARENT.format(flows=str(HERE.parent / "flows"), tests=str(HERE), logs=str(tmp_path), handler=handler)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0)
    url = parent.stdout.readline().strip()
    *pids, files = wait_for_children(tmp_path / "fake-100k-1.log")
    (os.killpg if to_group else os.kill)(parent.pid, number)
    parent.communicate(timeout=20)
    assert parent.returncode != 0
    port = httpx.URL(url).port
    assert eventually(lambda: port_is_free(port) and not any(map(alive, pids)) and not files.exist(), 5)


def test_an_engine_can_be_stopped_while_it_starts(tmp_path):
    running = start(model(*fault(kind="never_ready")), engine(), tmp_path, seed=0, device="gpu")

    def wait():
        with pytest.raises(EngineNotStarted):
            running.wait_ready()

    waiter = threading.Thread(target=wait)
    waiter.start()
    running.stop()
    running.stop()
    waiter.join(5)
    assert not waiter.is_alive() and running.exit_status() is not None


def test_sockets_of_an_engine_have_short_paths_wherever_temporary_files_are(tmp_path, monkeypatch):
    for folder, expected in ((tmp_path / ("x" * 60), "/tmp"), (Path("/tmp"), "/tmp")):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        made = launch.scratch_folder()
        made.rmdir()
        assert str(made.parent) == expected and launch.scratch_settings(made)["TMPDIR"] == str(made)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert launch.scratch_settings(made)["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"  # not compiled anew at every start


def test_shared_memory_of_others_stays(tmp_path):
    others = shared_memory.SharedMemory(create=True, size=64)
    try:
        with serve(model("--children"), engine(), tmp_path, seed=0, device="gpu") as endpoint:
            wait_for_children(endpoint.log)
            later = shared_memory.SharedMemory(create=True, size=64)
        assert (Path("/dev/shm") / others.name).exists() and (Path("/dev/shm") / later.name).exists()
        later.close()
        later.unlink()
    finally:
        others.close()
        others.unlink()


# --- what it is started with


def test_ports_of_two_engines_differ_though_both_are_still_starting(tmp_path):
    both = [start(model(), engine(), tmp_path, seed=0, device="gpu") for _ in range(2)]
    try:
        assert len({r.base_url for r in both}) == 2 and all(complete(r.wait_ready()) for r in both)
    finally:
        for r in both:
            r.stop()


def test_the_command_on_each_device():
    big = model("--kv-cache-dtype", "fp8", gpus=4, dtype="bfloat16", reasoning_parser="qwen3", revision="abc")
    gpu = launch.engine_command(big, Engine(), "gpu", 8000, 5)
    cpu = launch.engine_command(big, Engine(), "cpu", 8000, 5)
    assert gpu[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"] and gpu[-2:] == ["--kv-cache-dtype", "fp8"]
    for flags in (
        ["--tensor-parallel-size", "4"],
        ["--dtype", "bfloat16"],
        ["--revision", "abc"],
        ["--reasoning-parser", "qwen3"],
        ["--seed", "5"],
    ):
        assert " ".join(flags) in " ".join(gpu)
    assert "--dtype float32 --enforce-eager --block-size 32" in " ".join(cpu) and "--tensor-parallel-size" not in cpu


def test_the_engine_is_offline_with_local_weights_and_knows_nothing_of_prefect(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    monkeypatch.setenv("PYTHONPATH", "x")
    monkeypatch.setenv("THINKSCALE_API_KEY", "x")
    monkeypatch.setenv("PATH", "/usr/bin")
    inherited = launch.inherited_environment("/opt/vllm/bin/python")
    assert not {"PREFECT__FLOW_RUN_ID", "PYTHONPATH", "VIRTUAL_ENV", "THINKSCALE_API_KEY"} & inherited.keys()
    assert inherited["PATH"] == "/opt/vllm/bin:/usr/bin"
    assert launch.engine_settings(model(source=str(tmp_path)), "cpu", "k")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in launch.engine_settings(model(), "gpu", "k")


def test_the_device_can_be_said(monkeypatch):
    for device in ("cpu", "gpu"):
        monkeypatch.setenv("THINKSCALE_DEVICE", device)
        assert launch.detect_device() == device
    monkeypatch.setenv("THINKSCALE_DEVICE", "tpu")
    with pytest.raises(ValueError, match="found 'tpu'"):
        launch.detect_device()
    monkeypatch.delenv("THINKSCALE_DEVICE")
    assert launch.detect_device() in ("cpu", "gpu")


@pytest.mark.parametrize(
    ("told", "expected"),
    [("0", 1), ("0,1", 2), ("GPU-1a-1,MIG-2-1", 2), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("2,-1,3", 1), (None, 3)],
)
def test_the_gpus_are_those_that_cuda_would_show_an_engine(tmp_path, monkeypatch, told, expected):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'H100\\nH100\\nH100\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False) if told is None else monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert launch.visible_gpus() == expected
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert launch.visible_gpus() == (None if told is None else expected), "a failing one says nothing"


def test_an_engine_that_lacks_gpus_is_not_started_and_not_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError) as caught:
        start(model(gpus=2), engine(), tmp_path / "logs", seed=0, device="gpu")
    assert str(caught.value) == (
        "models.yaml: models.fake-100k.gpus: found 2, and CUDA_VISIBLE_DEVICES='3' shows 1 here. Start what runs it with 2 (a worker: "
        "CUDA_VISIBLE_DEVICES=0,1 prefect worker start --pool gpu --work-queue gpus-2 --limit 1), or lower `gpus`."
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("THINKSCALE_DEVICE", "gpu")
    with pytest.raises(ConfigError, match=r"gpus: found 1, .* shows 0 here"):
        run_fake(study(tmp_path))
    assert not list(tmp_path.rglob("*.log")) and "Starting the engine again" not in caplog.text
    monkeypatch.setenv("THINKSCALE_DEVICE", "cpu")
    assert run_fake(study(tmp_path)), "a CPU needs none"


# --- the supervisor alone


def supervised(code, **options):
    flags = [x for k, v in options.items() for x in (f"--{k}", str(v))]
    command = [sys.executable, "-I", "-S", supervise.__file__, *flags, "--", sys.executable, "-c", code]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize(("code", "status"), [("", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_supervisor_passes_the_exit_status_on(code, status):
    assert supervised(code).wait(10) == status


DEAF = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); os.setsid() if os.getpgrp() != os.getpid() else 0"
)


@pytest.mark.parametrize("way", ["stdin closes", "SIGTERM", "another parent"])
def test_the_supervisor_ends_what_does_not_listen_and_what_left_the_session(way):
    s = supervised(
        f"{DEAF}; os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)", grace=0.5, **({"parent": 1} if way == "another parent" else {})
    )
    if way == "another parent":
        assert "our parent is gone; no process left" in s.communicate(timeout=30)[1]
        return
    pids = [int(s.stdout.readline()) for _ in range(2)]
    assert all(map(alive, pids))
    s.stdin.close() if way == "stdin closes" else s.terminate()
    assert s.wait(30) == 143 and eventually(lambda: not any(map(alive, pids)))
