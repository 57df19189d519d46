"""Runs one program that a model wrote, shut in by the kernel; `sandbox` starts it as a script, a process per program.

Why: the program may do anything. So before it starts, this process gives up what it could do harm with: a filter (seccomp) leaves it the
thirty system calls that computing takes, and all others fail: no file can be opened, no socket made, no process started or signalled, no
limit raised. Limits on memory and CPU, another user where we are root, and output to nowhere do the rest. Modules are imported before.
What it does not do: judge. It answers with what the calls returned, or which tests passed. Imports nothing but the standard library.
"""

import ast
import contextlib
import copy
import ctypes
import importlib
import os
import platform
import resource
import signal
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from json import dumps, loads  # bound before a program can put others in their place
from typing import Any, BinaryIO

MODULES = (
    "abc array base64 bisect calendar cmath collections.abc contextlib copy csv dataclasses datetime decimal difflib enum fractions "
    "functools hashlib heapq html inspect io itertools json locale math numbers operator os pprint queue random re secrets statistics "
    "string struct sys textwrap threading time timeit traceback types typing unicodedata uuid warnings zlib encodings.idna "
    "encodings.utf_16 encodings.latin_1"
)
"""What a program may import: afterwards no file can be opened."""
NOBODY = 65534
AUDIT_ARCH_X86_64 = 0xC000003E
# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn sched_yield mremap madvise nanosleep getpid
# exit gettimeofday sigaltstack gettid time futex sched_getaffinity restart_syscall clock_gettime clock_getres clock_nanosleep exit_group
# getrandom rseq
ALLOWED = (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 60, 96, 131, 186, 201, 202, 204, 219, 228, 229, 230, 231, 318, 334)
PLAIN = (
    *(int, float, complex, str, bytes, bool, type(None), list, tuple, dict, set, frozenset, range),
    *(Counter, OrderedDict, defaultdict, deque, date, datetime, time, timedelta, Decimal, Fraction),
)
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


def returned(program: str, entry_point: str, calls: list[list[Any]]) -> list[list[Any]]:
    """What the program's function returns for each list of arguments, as [value], or [] where it fails."""
    names = _names(program)
    found: list[list[Any]] = []
    for arguments in calls:
        try:
            value = names[entry_point](*copy.deepcopy(arguments))
            found.append([loads(dumps(value, allow_nan=False))] if _is_plain(value) else [])
        except BaseException:  # noqa: BLE001 - whatever the program raises, exit included, is its failure
            found.append([])
    return found


def passed(program: str, tests: list[str]) -> list[bool]:
    """Which tests, each a piece of Python that fails by raising, hold after the program."""
    names, found = _names(program), []
    for test in tests:
        try:
            tree = ast.fix_missing_locations(_PlainOperands().visit(ast.parse(test)))
            exec(compile(tree, "<test>", "exec"), {**names, "__plain__": _plain})
            found.append(True)
        except BaseException:  # noqa: BLE001 - as above
            found.append(False)
    return found


def _names(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "candidate"}
    with contextlib.suppress(BaseException):  # what was defined before it failed may be all that is asked
        exec(compile(program, "<candidate>", "exec"), names)
    return names


class _PlainOperands(ast.NodeTransformer):
    """Tests look at plain values only: an object that equals everything passes no test."""

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        node.test = self.visit(node.test) if isinstance(node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)) else _wrapped(node.test)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        node.left, node.comparators = _wrapped(node.left), [_wrapped(c) for c in node.comparators]
        return node


def _wrapped(node: ast.expr) -> ast.expr:
    return ast.Call(ast.Name("__plain__", ast.Load()), [node], [])


def _plain(value: Any) -> Any:
    if not _is_plain(value):
        raise TypeError(f"no plain value: {type(value)}")
    return value


def _is_plain(value: Any) -> bool:
    if type(value) not in PLAIN:
        return False
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return not isinstance(value, (list, tuple, set, frozenset, deque)) or all(_is_plain(v) for v in value)


def main(job_file: BinaryIO) -> None:
    """Read a job, shut the door, say so, run it, answer. The word that stands before an answer is not known to the program."""
    job, out, nowhere = loads(job_file.read()), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for module in MODULES.split():
        importlib.import_module(module)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    word = job.pop("word")
    limits = job.pop("memory"), job.pop("cpu_seconds")
    try:
        shut(*limits)
    except (OSError, ValueError) as e:
        os.write(out, f"{word} not shut: {e}\n".encode())
        os._exit(1)
    os.write(out, f"{word} shut\n".encode())
    found = passed(**job) if "tests" in job else returned(**job)
    os.write(out, f"{word} {dumps(found)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main(sys.stdin.buffer)
