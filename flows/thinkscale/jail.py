"""Runs one program that a model wrote, shut in by the kernel; `sandbox` starts it as a script, once per program.

Why: the program may do anything. So before it starts, its process gives up what it could do harm with: a filter (seccomp) leaves it the
thirty system calls that computing takes, and all others fail: no file can be opened, no socket made, no process started or signalled, no
limit raised. Limits on memory and CPU, another user where we are root, and output to nowhere do the rest. Modules are imported before.
And it may rewrite its own interpreter, so that nothing which is said there of a test can be believed: tests run in the other process, the
judge, shut in likewise, which never runs a line of the program. It asks for calls and gets plain values back, nothing else (`Link`).
What it does not do: count. It answers with what the calls returned, or which tests passed. Imports nothing but the standard library.
"""

import builtins
import contextlib
import ctypes
import importlib
import operator
import os
import platform
import resource
import signal
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from json import dumps, loads
from typing import Any, NoReturn

MODULES = (
    "abc array base64 bisect calendar cmath collections.abc contextlib copy csv dataclasses datetime decimal difflib enum fractions "
    "functools hashlib heapq html inspect io itertools json locale math numbers operator os pprint queue random re secrets statistics "
    "string struct sys textwrap threading time timeit traceback types typing unicodedata uuid warnings zlib encodings.idna "
    "encodings.utf_16 encodings.latin_1 _strptime"
)
"""What a program may import: afterwards no file can be opened."""
NOBODY = 65534
AUDIT_ARCH_X86_64 = 0xC000003E
# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn sched_yield mremap madvise nanosleep getpid
# exit gettimeofday sigaltstack gettid time futex sched_getaffinity restart_syscall clock_gettime clock_getres clock_nanosleep exit_group
# getrandom rseq
ALLOWED = (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 60, 96, 131, 186, 201, 202, 204, 219, 228, 229, 230, 231, 318, 334)
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER_MODE = 1, 22, 38, 2


class Instruction(ctypes.Structure):
    """One instruction of a kernel filter (struct sock_filter)."""

    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Filter(ctypes.Structure):
    """A kernel filter (struct sock_fprog)."""

    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]


def shut(memory: int, cpu_seconds: int) -> None:
    """Give up everything that a computation does not need. Raises OSError where the kernel does not take it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise OSError(f"the filter is for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
    limits = {"AS": memory, "CPU": cpu, "FSIZE": 0, "CORE": 0, "NPROC": 0}
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    if os.geteuid() == 0:  # limits of processes do not bind root, and files of root are open to it
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _control(PR_SET_PDEATHSIG, signal.SIGKILL)
    _control(PR_SET_NO_NEW_PRIVS, 1)
    load, equal, answer = 0x20, 0x15, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: the call fails with EPERM
    lines: list[Any] = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH_X86_64), (answer, 0, 0, kill), (load, 0, 0, 0)]
    for number in ALLOWED:
        lines += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    lines.append((answer, 0, 0, refuse))
    instructions = (Instruction * len(lines))(*lines)
    program = Filter(len(lines), instructions)
    _control(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(program))


def _control(option: int, *values: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *(ctypes.c_ulong(v) for v in (*values, 0, 0, 0, 0)[:4])) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


# --- what the two processes say to each other ---

PLAIN: dict[type, tuple[Callable[[Any], Any], Callable[..., Any]]] = {
    int: (lambda n: [hex(n)], lambda text: int(text, 16)),  # Python refuses decimals beyond 4300 digits
    complex: (lambda z: [z.real, z.imag], complex),
    bytes: (lambda b: [b.hex()], bytes.fromhex),
    bytearray: (lambda b: [b.hex()], bytearray.fromhex),
    range: (lambda r: [r.start, r.stop, r.step], range),
    **{kind: (list, lambda *items, kind=kind: kind(items)) for kind in (list, tuple, set, frozenset, deque)},
    **{kind: (lambda d: list(d.items()), lambda *items, kind=kind: kind(items)) for kind in (dict, OrderedDict)},
    Counter: (lambda d: list(d.items()), lambda *items: Counter(dict(items))),
    defaultdict: (lambda d: list(d.items()), lambda *items: defaultdict(None, items)),
    **{kind: (lambda d: [d.isoformat()], kind.fromisoformat) for kind in (date, datetime, time)},
    timedelta: (lambda d: [d.days, d.seconds, d.microseconds], timedelta),
    Decimal: (lambda d: [str(d)], Decimal),
    Fraction: (lambda f: [f.numerator, f.denominator], Fraction),
}
"""Plain values besides None, bool, float and str, which JSON has: how each is taken apart, and put together of its parts."""
NAMES = {kind.__name__: kind for kind in (*PLAIN, bool, float, str, type(None))}
RAISED = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
MAX_SAID = 2**24
"""Bytes of one value."""


class Lost(BaseException):
    """The other process is gone, or what it says cannot be read."""


class Uncarried(BaseException):
    """A value that cannot be carried to the other process."""


class Far:
    """An object that lives in the other process: what is done to it happens there.

    It is compared with nothing and is neither true nor false: a class of the program may say that it equals everything.
    """

    __slots__ = ("_at", "_link")

    def __init__(self, link: "Link", at: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_at", at)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it; what that does to lists, sets and dictionaries that it is given is done to those here too."""
        value, after = self._link.ask("call", self, list(args), kwargs)
        for old, new in zip(args, after, strict=True):
            _renew(old, new)
        return value

    def __getattr__(self, name: str) -> Any:
        return self._link.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._link.ask("setitem", self, key, value)

    def __iter__(self) -> Any:
        return self._link.ask("iter", self)

    def __next__(self) -> Any:
        return self._link.ask("next", self)

    def __len__(self) -> Any:
        return self._link.ask("len", self)

    def __str__(self) -> Any:
        return self._link.ask("str", self)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("an object of the program is no plain value")

    def __bool__(self) -> NoReturn:
        raise TypeError("an object of the program is no plain value")


def _renew(old: Any, new: Any) -> None:
    """Give an argument the content that the call left in it."""
    if isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set, deque)):
        old.clear()
        (old.extend if isinstance(old, deque) else old.update)(new)


def _call(function: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
    return function(*args, **kwargs), args


ANYTHING: dict[str, Callable[..., Any]] = {
    **{"call": _call, "getattr": getattr, "setattr": setattr, "getitem": operator.getitem, "setitem": operator.setitem},
    **{"iter": iter, "next": next, "len": len, "str": str},
}
"""What may be asked of an object of the program."""


def _is_of_tests(value: Any) -> bool:
    return type(value).__module__ == "test"


def _public(value: Any, name: str, *new: Any) -> Any:
    if name.startswith("_") or not _is_of_tests(value):
        raise AttributeError(name)
    return (setattr if new else getattr)(value, name, *new)


LITTLE: dict[str, Callable[..., Any]] = {"call": _call, "getattr": _public, "setattr": _public}
"""What the program may ask of what a test gave it: to call a function, to read and set what an object of a test's own class has."""


class Link:
    """One end of the talk between judge and program. Each asks the other, and while it waits answers what it is asked in turn.

    Only plain values cross, as JSON; an object that is none stays where it is, and a `Far` stands for it on the other side. So whatever the
    program makes of its own end, the judge gets plain values of exactly these types.
    """

    def __init__(self, hears: int, says: int, answers: dict[str, Callable[..., Any]], lends: Callable[[Any], bool]) -> None:
        self.hears, self.says = os.fdopen(hears, "rb"), os.fdopen(says, "wb")
        self.answers, self.lends = answers, lends
        self.lent: list[Any] = []
        self.lost = False

    def ask(self, what: str, *values: Any) -> Any:
        """What the other side answers, or raise what is raised there."""
        self._say([what, self.packed(list(values))])
        while True:
            said = self.heard()
            if said[0] == "value":
                return self.unpacked(said[1])
            if said[0] == "raised":
                raise RAISED.get(said[1], BaseException)(said[2])
            self.answer(said)

    def answer(self, said: list[Any]) -> None:
        """Do what is asked, and say what came of it."""
        try:
            reply = ["value", self.packed(self.answers[said[0]](*self.unpacked(said[1])))]
        except Lost:
            raise
        except BaseException as e:  # noqa: BLE001 - whatever the program raises, exit included, is its failure
            text = ""
            with contextlib.suppress(BaseException):
                text = str(e)
            reply = ["raised", next((kind.__name__ for kind in type(e).__mro__ if kind.__name__ in RAISED), ""), text]
        self._say(reply)

    def heard(self) -> list[Any]:
        """The next thing said. Raises Lost."""
        line = self.hears.readline(MAX_SAID)
        try:
            said = loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            said = None
        if not (isinstance(said, list) and len(said) in (2, 3) and isinstance(said[0], str)):
            self.lost = True
            raise Lost
        return said

    def packed(self, value: Any) -> Any:
        """A value as JSON has it: [type, parts] where it has no such value itself."""
        kind = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if kind in PLAIN:
            return [kind.__name__, [self.packed(part) for part in PLAIN[kind][0](value)]]
        if isinstance(value, type) and NAMES.get(value.__name__) is value:
            return ["type", [value.__name__]]
        if kind is Far:
            return ["yours", [value._at]]
        if not self.lends(value):
            raise Uncarried(kind.__name__)
        self.lent.append(value)
        return ["mine", [len(self.lent) - 1]]

    def unpacked(self, said: Any) -> Any:
        """What was packed. Raises whatever Python does where it is no such thing."""
        if said is None or type(said) in (bool, float, str):
            return said
        name, parts = said
        if name == "mine":
            return Far(self, int(parts[0]))
        if name == "yours":
            return self.lent[parts[0]]
        if name == "type":
            return NAMES[parts[0]]
        return PLAIN[NAMES[name]][1](*(self.unpacked(part) for part in parts))

    def _say(self, said: list[Any]) -> None:
        try:
            self.says.write(dumps(said).encode() + b"\n")
            self.says.flush()
        except OSError as e:
            self.lost = True
            raise Lost from e


# --- the program's process ---


def obey(link: Link) -> NoReturn:
    """Do what the judge asks for until it is gone."""
    names: dict[str, Any] = {}
    link.answers = {
        **ANYTHING,
        "shut": shut,
        "run": lambda program: names.update(_names(program, "candidate")),
        "name": lambda name: names[name],
    }
    with contextlib.suppress(BaseException):
        while True:
            link.answer(link.heard())
    os._exit(0)


def _names(program: str, name: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": name}
    with contextlib.suppress(BaseException):  # what was defined before it failed may be all that is asked
        exec(compile(program, f"<{name}>", "exec"), names)
    return names


# --- the judge ---


def returned(link: Link, program: str, entry_point: str, calls: list[list[Any]]) -> list[list[Any]]:
    """What the program's function returns for each list of arguments, as [value], or [] where it fails."""
    found: list[list[Any]] = []
    for function in _from_program(link, program, [entry_point]).values():
        for arguments in calls:
            try:
                found.append([loads(dumps(function(*arguments), allow_nan=False))])
            except BaseException:  # noqa: BLE001 - whatever was raised, the call has failed
                found.append([])
    return found


def passed(link: Link, program: str, gold: str, names: list[str], tests: list[str]) -> list[bool | str]:
    """Which tests, each a piece of Python that fails by raising, hold after the program; the type of what cannot be given to it.

    `names`: what tests take from the program, where the gold program has a function or class of that name. All else that they name is the
    gold program's: a helper or constant that the program may redefine as it likes would judge it.
    """
    known, found = _names(gold, "gold"), list[bool | str]()
    taken = [name for name in names if name not in known or callable(known[name])]
    known = {name: value for name, value in known.items() if name not in taken} | _from_program(link, program, taken)
    for test in tests:
        try:
            exec(compile(test, "<test>", "exec"), {**known, "__name__": "test"})
            found.append(not link.lost)
        except Uncarried as e:
            found.append(str(e))
        except BaseException:  # noqa: BLE001 - as above
            found.append(False)
    return found


def _from_program(link: Link, program: str, names: list[str]) -> dict[str, Any]:
    """What the program has under these names, once it has run."""
    found = {}
    with contextlib.suppress(Lost):
        link.ask("run", program)
        for name in names:
            with contextlib.suppress(KeyError):
                found[name] = link.ask("name", name)
    return found


def main() -> None:
    """Split into the program's process, the judge's and this one, which outlives both: it ends them when its input does.

    The job is read after the first split: neither tests nor the word that stands before answers are in the memory of the program's process.
    """
    out, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for module in MODULES.split():
        importlib.import_module(module)
    (asked, asks), (hears, told) = os.pipe(), os.pipe()
    children = [os.fork()]
    if children == [0]:
        for descriptor in (0, 1, 2, out, asks, hears):
            os.dup2(nowhere, descriptor)
        obey(Link(asked, told, {}, lambda value: True))
    job = loads(sys.stdin.buffer.readline() or b"null")
    if job:
        children.append(os.fork())
    for descriptor in (asked, told, 1, 2, *[0] * (children[-1] == 0)):
        os.dup2(nowhere, descriptor)
    if children[-1] == 0:
        judge(Link(hears, asks, LITTLE, lambda value: callable(value) or _is_of_tests(value)), job, out)
    for descriptor in (out, asks, hears):
        os.close(descriptor)
    os.read(0, 1)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os._exit(0)


def judge(link: Link, job: dict[str, Any], out: int) -> NoReturn:
    """Shut both doors, say so, judge, answer."""
    word = job.pop("word")
    limits = job.pop("memory"), job.pop("cpu_seconds")
    try:
        link.ask("shut", *limits)
        shut(*limits)
    except (OSError, ValueError, Lost) as e:
        os.write(out, f"{word} not shut: {e or 'the process of the program died'}\n".encode())
        os._exit(1)
    os.write(out, f"{word} shut\n".encode())
    found = passed(link, **job) if "tests" in job else returned(link, **job)
    os.write(out, f"{word} {dumps(found)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
