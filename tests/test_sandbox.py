"""The sandbox: programs that mean harm do none and grade wrong; honest ones run; where it does not hold, code benchmarks are refused."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from thinkscale import sandbox
from thinkscale.grading import grade
from thinkscale.problems import Problem

LIMITS = sandbox.Limits(memory_mb=256, cpu_seconds=1, seconds=1.5)
OPEN = "\ndef f(x):\n    return x + 1\n"  # what would be right, after the harm
SYSCALL = "import ctypes\nlibc = ctypes.CDLL(None)\n"

# {victim} is a file of ours, {port} a listening socket of ours, {pid} a process of ours, {folder} one that anybody may write to
HOSTILE = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb by raw calls": SYSCALL + "while True:\n    assert libc.syscall(57) >= 0",
    "thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "another program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo x > {folder}/harm'])",
    "another program by subprocess": "import subprocess\nsubprocess.run(['touch', '{folder}/harm'], check=True)",
    "a shell": "import os\nassert os.system('touch {folder}/harm') == 0",
    "memory bomb": "xs = []\nwhile True: xs.append(bytearray(10**7))",
    "one huge number": "x = 9 ** (9 ** 9)",
    "a map of memory": "import mmap\nmmap.mmap(-1, 2**32)",
    "endless loop": "while True: pass",
    "endless loop that catches all": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleep": "import time\ntime.sleep(60)",
    "deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "endless output": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "endless output to every descriptor": "import os\nwhile True:\n    for d in range(64):\n"
    "        try: os.write(d, b'x' * 65536)\n        except OSError: pass",
    "fake result on every descriptor": "import os\nfor d in range(64):\n    try: os.write(d, b'shut\\n[[2], [3]]\\n[true]\\n')\n"
    "    except OSError: pass\nos._exit(0)",
    "read a file": "open('/etc/passwd').read()",
    "read the gold answers": "open('{victim}').read()",
    "list a folder": "import os\nos.listdir('/')",
    "write a file": "open('{folder}/harm', 'w').write('x')",
    "write by a raw call": SYSCALL + "assert libc.syscall(2, b'{folder}/harm', 65, 511) >= 0",
    "write by openat2": SYSCALL
    + "import struct\nassert libc.syscall(437, -100, b'{folder}/harm', struct.pack('QQQ', 65, 511, 0), 24) >= 0",
    "delete a file": "import os\nos.remove('{victim}')",
    "delete by a raw call": SYSCALL + "assert libc.syscall(87, b'{victim}') == 0",
    "rename a file": "import os\nos.rename('{victim}', '{victim}.gone')",
    "truncate a file": "import os\nos.truncate('{victim}', 0)",
    "delete all": "import shutil\nshutil.rmtree('{folder}')",
    "change a file's rights": "import os\nos.chmod('{victim}', 0)",
    "a link": "import os\nos.symlink('/etc/passwd', '{folder}/harm')",
    "call home": "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
    "call home by a raw call": SYSCALL + "assert libc.syscall(41, 2, 1, 0) >= 0",
    "call home by io_uring": SYSCALL + "assert libc.syscall(425, 8, bytes(120)) >= 0",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)",
    "kill by a raw call": SYSCALL + "assert libc.syscall(62, {pid}, 9) == 0",
    "kill everybody": "import os\nos.kill(-1, 9)",
    "trace the parent": SYSCALL + "assert libc.syscall(101, 16, {pid}, 0, 0) == 0",
    "read another process": SYSCALL + "assert libc.syscall(310, {pid}, 0, 0, 0, 0, 0) >= 0",
    "become root again": "import os\nos.setuid(0)",
    "raise the limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "read the environment": "import os\nassert os.environ['THINKSCALE_TEST_SECRET']",
    "32-bit calls": "import ctypes, mmap\nm = ctypes.CDLL(None)\nm.mmap.restype = ctypes.c_void_p\n"
    "a = m.mmap(0, 4096, 7, 34, -1, 0)\nctypes.memmove(a, bytes.fromhex('b802000000cd80c3'), 8)\n"
    "assert ctypes.CFUNCTYPE(ctypes.c_int)(a)() >= 0",
    "crash": "import ctypes\nctypes.string_at(0)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef g(): return g()\ng()",
    "exit as if all were well": "import os\nos._exit(0)",
    "exit by raising": "raise SystemExit(0)",
    "no Python": "def f(x:",
    "a null byte": "x = '\x00'\n\x00",
}
CHEATING = {
    "an object that equals everything": "class E:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return E()",
    "a list of such": "class E(int):\n    def __eq__(self, other): return True\ndef f(x): return [E()]",
    "truth that compares as it likes": "class E:\n    def __bool__(self): return True\n    def __eq__(self, o): return self\n"
    "def f(x): return E()",
    "exit in the function": "import os\ndef f(x): os._exit(0)",
    "leave by raising": "def f(x): raise SystemExit(0)",
    "another json": "import json\njson.dumps = lambda *a, **k: '[[2], [3]]'\ndef f(x): return 7",
    "too much to return": "def f(x): return 'x' * 10**8",
    "a number without end": "def f(x): return 10 ** 100000",
    "a list in itself": "def f(x):\n    xs = []\n    xs.append(xs)\n    return xs",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """What a program could harm: a file, a folder, a listening socket, a process, a secret in the environment."""
    folder = tmp_path_factory.mktemp("victim")
    for path in (folder, *list(folder.parents)[:3]):
        path.chmod(0o777)
    victim = folder / "gold.txt"
    victim.write_text("42")
    victim.chmod(0o666)
    os.environ["THINKSCALE_TEST_SECRET"] = "hidden"
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield {
            "victim": victim,
            "folder": folder,
            "port": server.getsockname()[1],
            "pid": sleeper.pid,
            "server": server,
            "sleeper": sleeper,
        }
    sleeper.kill()
    sleeper.wait()
    del os.environ["THINKSCALE_TEST_SECRET"]


def unharmed(place) -> None:
    assert place["victim"].read_text() == "42" and place["victim"].stat().st_mode & 0o777 == 0o666
    assert [p.name for p in place["folder"].iterdir()] == ["gold.txt"]
    assert place["sleeper"].poll() is None
    with pytest.raises(BlockingIOError):
        place["server"].accept()


def left_over() -> list[str]:
    """Processes of ours that run the jail."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            parent = re.search(r"^PPid:\s*(\d+)", (folder / "status").read_text(), re.MULTILINE)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(sandbox.JAIL).encode() in words and parent and int(parent[1]) in (os.getpid(), 1):
            found.append(folder.name)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_does_no_harm_and_passes_nothing(name: str, place) -> None:
    harm = HOSTILE[name]
    for key in ("victim", "folder", "port", "pid"):
        harm = harm.replace(f"{{{key}}}", str(place[key]))
    start = time.monotonic()
    # the harm comes first and what would be right after it: to pass, the harm would have to succeed
    asserted = sandbox.passed("", [harm + OPEN + "\nassert f(1) == 2"], LIMITS)
    returned = sandbox.returned(harm + OPEN, "f", [[1], [2]], LIMITS)
    assert asserted == [False] and returned == [[], []], name
    assert time.monotonic() - start < 2 * (LIMITS.seconds + 60)
    unharmed(place)
    assert not left_over()


@pytest.mark.parametrize("name", CHEATING)
def test_a_program_that_cheats_the_tests_passes_none(name: str) -> None:
    tests = [
        "assert f(1) == 2",
        "assert not f(1) != 2",
        "assert f(1) in [2]",
        "assert [f(1)] == [2] and True",
        "assert f(1)\nassert f(1) == 2",
    ]
    assert not any(sandbox.passed(CHEATING[name], tests, LIMITS)), name
    assert all(found != [value] for found, value in zip(sandbox.returned(CHEATING[name], "f", [[1], [2]], LIMITS), (2, 3), strict=True))


def test_hostile_programs_grade_wrong_and_none_is_lost(place) -> None:
    metadata = json.dumps({"entry_point": "f", "tests": ["assert f(1) == 2"]})
    problem = Problem("p", "p", "?", OPEN, 1.0, metadata=metadata)
    for name in ("write a file", "call home", "exit as if all were well"):
        harm = HOSTILE[name].replace("{folder}", str(place["folder"])).replace("{port}", str(place["port"]))
        found = grade("code", f"```python\n{harm}\n{OPEN}```", problem, False)
        assert (found.correct, found.partial, found.status) == (False, 0.0, "answered"), name
    assert grade("code", OPEN, problem, False).correct


HONEST = {
    "the standard library": "import re, math, collections, itertools, heapq\nfrom typing import List\n"
    "def f(x):\n    return math.floor(x) + len(re.findall('a', 'a'))",
    "printing": "def f(x):\n    print('x' * 10**5)\n    return x + 1",
    "recursion": "def f(x):\n    return 1 if x == 0 else 1 + f(x - 1)",
    "classes and generators": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    "def f(x):\n    return sum(p.x for p in [P(x), P(1)])",
    "large but fair": "def f(x):\n    return len([0] * 10**6) - 10**6 + x + 1",
    "random numbers and the clock": "import random, time\ndef f(x):\n    random.random(); time.time(); time.sleep(0.01)\n    return x + 1",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_run(name: str) -> None:
    assert sandbox.returned(HONEST[name], "f", [[1], [40]]) == [[2], [41]]
    assert sandbox.passed(HONEST[name], ["assert f(1) == 2", "assert f(1) == 3"]) == [True, False]


def test_calls_do_not_see_what_earlier_ones_did_to_their_arguments() -> None:
    assert sandbox.returned("def f(xs):\n    xs.append(1)\n    return xs", "f", [[[]], [[]]]) == [[[1]], [[1]]]


def test_the_self_test_holds_here() -> None:
    sandbox.check()


def with_jail(folder: Path, change: tuple[str, str]):
    """The sandbox module beside a jail that was changed."""
    text = sandbox.JAIL.read_text()
    assert change[0] in text
    folder.chmod(0o755)
    (folder / "jail.py").write_text(text.replace(*change))
    (folder / "sandbox.py").write_text(Path(sandbox.__file__).read_text())
    spec = importlib.util.spec_from_file_location("changed_sandbox", folder / "sandbox.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["changed_sandbox"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BROKEN = {
    "files can be opened": (("ALLOWED = (0, 1,", "ALLOWED = (0, 1, 2, 257, 262, 16,"), "open a file"),
    "no filter": (("    _control(PR_SET_SECCOMP,", "    return\n    _control(PR_SET_SECCOMP,"), "call socket"),
    "no limit of memory": (('"AS": memory', '"AS": 2**40'), "take a gigabyte"),
    "the kernel does not take it": (("PR_SET_SECCOMP, FILTER_MODE,", "PR_SET_SECCOMP, 99,"), "not shut"),
    "another machine": (('platform.machine() != "x86_64"', 'platform.machine() != "riscv"'), "for Linux on x86_64"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_where_the_sandbox_does_not_hold_code_is_refused(name: str, tmp_path: Path) -> None:
    change, said = BROKEN[name]
    module = with_jail(tmp_path, change)
    with pytest.raises(module.SandboxError, match=said):
        module.check()


def test_a_sandbox_that_does_not_come_up_is_an_error_and_no_wrong_answer(tmp_path: Path) -> None:
    module = with_jail(tmp_path, ("import ast\n", "import absent_module\n"))
    with pytest.raises(module.SandboxError, match="did not come up"):
        module.returned("def f(x): return x", "f", [[1]])


def test_programs_run_side_by_side_without_mixing() -> None:
    found: dict[int, object] = {}

    def run(i: int) -> None:
        found[i] = sandbox.returned(f"def f(x): return x + {i}", "f", [[0]], sandbox.LIMITS)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [[i]] for i in range(12)}


def test_a_program_dies_with_whoever_started_it() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(sandbox.__file__).parents[1])!r})\n"
        "import os, threading, subprocess\nfrom thinkscale import sandbox\n"
        "made = subprocess.Popen\n"
        "def tell(*a, **k):\n    p = made(*a, **k)\n    print(p.pid, flush=True)\n    return p\n"
        "subprocess.Popen = tell\n"
        "sandbox.returned('import threading\\nl = threading.Lock()\\nl.acquire()\\nl.acquire()', 'f', [[1]], sandbox.Limits(seconds=600))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while "No" not in (status := Path(f"/proc/{pid}/status").read_text()) or "Seccomp:\t2" not in status:
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
