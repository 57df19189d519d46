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
GOLD = "def f(x):\n    return x + 1\n"
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
    "exec that does nothing": "import builtins\nbuiltins.exec = lambda *a, **k: None\ndef f(x): return 0",
    "compile that compiles nothing": "import builtins\nold = builtins.compile\nbuiltins.compile = lambda s, *a, **k: old('', '', 'exec')\n"
    "def f(x): return 0",
    "a parser that finds nothing": "import ast\nold = ast.parse\nast.parse = lambda s, *a, **k: old('pass')\ndef f(x): return 0",
    "a visitor that visits nothing": "import ast\nast.NodeTransformer.visit = lambda self, node: ast.Module([], [])\ndef f(x): return 0",
    "another check of plain values": "import sys\nmain = sys.modules['__main__']\nmain._plain = main._is_plain = lambda v: True\n"
    "class E:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\ndef f(x): return E()",
    "other plain types": "import sys\nmain = sys.modules['__main__']\nclass E(int):\n    def __eq__(self, other): return True\n"
    "main.PLAIN[E] = main.NAMES['E'] = (lambda e: [], E)\ndef f(x): return E()",
    "built-in functions that agree": "import builtins\nbuiltins.all = builtins.any = builtins.isinstance = lambda *a: True\n"
    "builtins.type = lambda v: int\nbuiltins.AssertionError = None\ndef f(x): return 0",
    "an assertion that is an exit": "import builtins\nclass A(SystemExit):\n    pass\nbuiltins.AssertionError = A\ndef f(x): return 0",
    "exit in the test": "import sys\ndef f(x): sys.exit(0)",
    "results at the end": "import atexit, os\ndef say():\n    for d in range(64):\n        try: os.write(d, b'[true]\\n')\n"
    "        except OSError: pass\natexit.register(say)\ndef f(x): raise SystemExit",
    "another standard output": "import sys, io\nsys.stdout = sys.__stdout__ = io.StringIO('[true]')\nprint('[true]')\ndef f(x): return 0",
    "another way to answer": "import sys\nmain = sys.modules['__main__']\nmain.passed = lambda *a: [True] * 9\n"
    "main.returned = lambda *a: [[2]] * 9\nmain.dumps = lambda v: '[[2], [3], true, true, true]'\ndef f(x): return 0",
    "the functions of its own process": "import sys\nframe = sys._getframe()\nwhile frame:\n    for name in list(frame.f_globals):\n"
    "        if name not in ('__builtins__', 'obey'): frame.f_globals[name] = lambda *a, **k: True\n    frame = frame.f_back\n"
    "def f(x): return 0",
    "answers said beforehand": "import os\nfor d in range(64):\n    try: os.write(d, b'[\"value\", true]\\n' * 99)\n"
    "    except OSError: pass\ndef f(x): return 0",
    "an answer that is no value": "import os\ndef f(x):\n    for d in range(64):\n"
    '        try: os.write(d, b\'["value", ["mine", [0]]]\\n\')\n        except OSError: pass',
    "lists that hold true": "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
    "        if type(o) is list: o[:] = [True] * len(o)\n    return 0",
    "the tests, looked for": "import sys\ndef f(x):\n    frame = sys._getframe(1)\n    while frame:\n"
    "        if 'assert' in str(frame.f_locals): return x + 1\n        frame = frame.f_back\n    return 0",
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
    test = "assert f(1) == 2"
    asserted = sandbox.passed("", "", [], [harm + OPEN + test], LIMITS) + sandbox.passed(harm + OPEN, GOLD, ["f"], [test], LIMITS)
    returned = sandbox.returned(harm + OPEN, "f", [[1], [2]], LIMITS)
    assert asserted == [False, False] and [f for f in returned if f] == [], name
    assert time.monotonic() - start < 3 * (LIMITS.seconds + 60)
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
    assert not any(sandbox.passed(CHEATING[name], GOLD, ["f"], tests, LIMITS)), name
    assert all(found != [value] for found, value in zip(sandbox.returned(CHEATING[name], "f", [[1], [2]], LIMITS), (2, 3), strict=True))


@pytest.mark.parametrize(
    "cheat",
    [
        "def abs(x): return 0",
        "class math:\n    fabs = staticmethod(lambda x: 0)",
        "def poly(x): return 0",
        "TOLERANCE = 10**9",
    ],
)
def test_what_a_test_uses_beside_the_function_asked_for_is_not_the_program_s(cheat: str) -> None:
    gold = "import math\nTOLERANCE = 1e-6\ndef poly(x): return x - 2\ndef f(): return 2.0\n"
    tests = ["assert abs(f() - 2) < TOLERANCE", "assert math.fabs(poly(f())) < TOLERANCE"]
    assert sandbox.passed("def f(): return 2.0", gold, ["f"], tests) == [True, True]
    assert sandbox.passed(f"{cheat}\ndef f(): return 7.0", gold, ["f"], tests) == [False, False]


def test_a_program_that_ends_in_a_test_that_expects_an_error_passes_none() -> None:
    test = "try:\n    f(-1)\n    right = False\nexcept Exception:\n    right = True\nassert right"
    assert sandbox.passed("def f(x): raise ValueError", "def f(x): raise ValueError", ["f"], [test]) == [True]
    assert sandbox.passed("import os\ndef f(x): os._exit(0)", GOLD, ["f"], [test, test], LIMITS) == [False, False]


def test_hostile_programs_grade_wrong_and_none_is_lost(place) -> None:
    metadata = json.dumps({"entry_point": "f", "tests": ["assert f(1) == 2"]})
    problem = Problem("p", "p", "?", GOLD, 1.0, metadata=metadata)
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
    assert sandbox.passed(HONEST[name], GOLD, ["f"], ["assert f(1) == 2", "assert f(1) == 3"]) == [True, False]


VALUES = (
    "None True -7 10**5000 1.5 float('inf') 2j 'a\\u00e9\\ud800' b'ab' bytearray(b'a') [1,[2]] (1,) (1,(2,'x')) {1,2} frozenset({1}) "
    "{1:[2],'a':None} range(3) Counter('aab') OrderedDict([(2,1),(1,2)]) defaultdict(None,{1:[2]}) deque([1,2]) date(2020,1,2) "
    "datetime(2020,1,2,3,4) time(3,4) timedelta(1,2,3) Decimal('1.50') Fraction(1,3) int str"
)
IMPORTS = "from collections import *\nfrom datetime import *\nfrom decimal import Decimal\nfrom fractions import Fraction\n"


@pytest.mark.parametrize("value", VALUES.split())
def test_every_plain_value_goes_to_the_program_and_comes_back_the_same(value: str) -> None:
    test = f"{IMPORTS}v = {value}\nassert f([v])[0] == v\nassert type(f([v])[0]) is type(v)"
    assert sandbox.passed("def f(x): return x", "def f(x): return x", ["f"], [test]) == [True]


OBJECTS = """
class Node:
    def __init__(self, value, left=None): self.value, self.left = value, left
    def __str__(self): return f"<{self.value}>"
def depth(node): return 0 if node is None else 1 + depth(node.left)
def each(function, values): return [function(v) for v in values]
def grow(values): values.append(max(values) + 1)
def count(n): yield from range(n)
def fail(x): raise KeyError(x)
def total(purse): purse.seen = True; return purse.coins + purse.more(1)
"""
USES = [
    "root = Node(1)\nroot.left = Node(2, left=Node(3))\nassert depth(root) == 3 and root.left.value == 2 and str(root) == '<1>'",
    "assert depth(None) == 0",
    "assert each(lambda v: v + 1, [1, 2]) == [2, 3]",
    "values = [3, 1]\ngrow(values)\nassert values == [3, 1, 4]",
    "assert list(count(3)) == [0, 1, 2] and next(count(1)) == 0",
    "try:\n    fail(1)\n    assert False\nexcept LookupError:\n    pass",
    "class Purse:\n    coins, seen = 1, False\n    def more(self, n): return n\npurse = Purse()\nassert total(purse) == 2 and purse.seen",
]


@pytest.mark.parametrize("test", USES)
def test_tests_use_objects_and_functions_as_if_the_program_were_there(test: str) -> None:
    names = ["Node", "depth", "each", "grow", "count", "fail", "total"]
    assert sandbox.passed(OBJECTS, OBJECTS, names, [test, test.replace("assert ", "assert not ")]) == [True, "fail" in test]


def test_the_program_gets_nothing_more_from_a_test_than_what_it_was_given() -> None:
    program = (
        "def f(function, thing):\n    found = 0\n    for o in (function, thing):\n        for name in ('__globals__', '_secret'):\n"
        "            try: o.__getattr__(name); found += 1\n            except AttributeError: pass\n    return found"
    )
    test = "class T:\n    _secret = 1\nassert f(lambda: 1, T()) == 0"
    assert sandbox.passed(program, GOLD, ["f"], [test]) == [True]


def test_a_test_whose_values_cannot_be_carried_is_an_error_and_no_wrong_answer() -> None:
    with pytest.raises(sandbox.SandboxError, match="object of type 'list_iterator', which cannot be carried"):
        sandbox.passed("def f(x): return 0", GOLD, ["f"], ["assert f(1) == 0", "assert f(iter([1])) == 0"])


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
    module = with_jail(tmp_path, ("import ctypes\n", "import absent_module\n"))
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
        pid = parent.stdout.readline().strip()
        while len(pids := [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]) < 3 or not all(map(shut_in, pids[1:])):
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(map(lives, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shut_in(pid: str) -> bool:
    return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()


def lives(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_process_of_a_program_is_left_to_be_reaped_by_others() -> None:
    def orphans() -> int:
        texts = [p.read_text() for p in Path("/proc").glob("[0-9]*/status") if lives(p.parent.name) or p.exists()]
        return sum("State:\tZ" in text and "PPid:\t1\n" in text for text in texts)

    before = orphans()
    for program in ("def f(x): return x", "import os\nos._exit(0)", HOSTILE["sleep"], HOSTILE["endless loop"]):
        sandbox.returned(program, "f", [[1]], LIMITS)
    assert orphans() <= before
