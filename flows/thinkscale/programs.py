"""Programs in answers: find one, run its benchmark's hidden tests in the sandbox, count what passes.

Why: "write a function" is graded by running it. Chat models put programs into fenced blocks, base models go on where the prompt's function
begins; both are read. What it does not do: hold a program (see `sandbox`), say what a partial pass is worth (see `grading`).
"""

import ast
import json
import re
import symtable
from functools import lru_cache
from typing import Any

from thinkscale import sandbox

MAX_PROGRAM = 20_000
"""Characters; what is longer is no answer."""
_FENCE = re.compile(r"^([ \t]*)(```|~~~)[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*\2", re.DOTALL | re.MULTILINE)
_OPENED = re.compile(r"```|^[ \t]*~~~", re.MULTILINE)


def program_in(text: str, metadata: dict[str, Any], truncated: bool) -> str | None:
    """The program that an answer gives: its last fenced block, else the text itself; None where there is none.

    What does not define the function asked for is taken as the rest of the prompt's function. Of a text that ran into its cap only a closed
    block counts.
    """
    # a block inside a list is indented as a whole
    fences = [m for m in _FENCE.finditer(text) if m[3].lower() in ("", "python", "py", "python3")]
    blocks = [re.sub(rf"^{m[1]}", "", m[4], flags=re.MULTILINE) for m in fences]
    prompt, entry_point = str(metadata.get("prompt", "")), str(metadata.get("entry_point", ""))
    defines = re.compile(
        rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b" if entry_point else r"^\s*(?:def|class)\s", re.MULTILINE
    )
    if blocks:
        body = next((b for b in reversed(blocks) if defines.search(b)), blocks[-1])
    elif truncated or _OPENED.search(text) or not text.strip():
        return None
    else:
        body = text
    if defines.search(body):
        # what is imported above a prompt's function is there for the program too
        return f"{_head(prompt, entry_point)}{body}" if prompt else body
    return f"{prompt}{_continued(body)}" if prompt else body


def _head(prompt: str, entry_point: str) -> str:
    """The prompt up to the function asked for: its imports and helpers."""
    found = re.search(rf"^def\s+{re.escape(entry_point)}\b", prompt, re.MULTILINE) if entry_point else None
    return prompt[: found.start()] if found else ""


def _continued(body: str) -> str:
    """The body of a function: the lines up to the first that is not indented (a base model goes on with functions of its own)."""
    kept: list[str] = []
    for line in body.split("\n"):
        if kept and line.strip() and not line[0].isspace() and any(k.strip() for k in kept):
            break
        kept.append(line)
    indented = kept[0][:1].isspace() or not kept[0].strip()
    return "\n".join(kept if indented else [f"    {kept[0]}", *kept[1:]])


def share_passed(program: str, gold: str, metadata: dict[str, Any]) -> float:
    """Share of the hidden tests, which the gold program passes, that a program passes.

    Raises: sandbox.SandboxError where it cannot be run safely; ValueError where the gold program is none.
    """
    if "calls" in metadata:
        expected: list[Any] = metadata["expected"]
        found = sandbox.returned(program, str(metadata["entry_point"]), metadata["calls"])
        return sum(json.dumps(f) == json.dumps([e]) for f, e in zip(found, expected, strict=True)) / len(expected)
    names = [str(metadata["entry_point"])] if "entry_point" in metadata else _defined(gold)
    passed = sandbox.passed(program, gold, names, list(metadata["tests"]))
    return sum(passed) / len(passed)


@lru_cache(maxsize=4096)
def _defined(gold: str) -> list[str]:
    """Names that a gold program gives a value of its own."""
    try:
        symbols = symtable.symtable(gold, "<gold>", "exec").get_symbols()
    except SyntaxError as e:
        raise ValueError(f"the gold answer is no program in Python: {e}. Its tests cannot judge others.") from e
    return [s.get_name() for s in symbols if s.is_assigned() and (s.is_namespace() or not s.is_imported())]


def same_program(program: str) -> str:
    """A key that programs share which differ in comments and layout only."""
    try:
        return ast.unparse(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program.strip()


def checks(test: str, entry_point: str) -> list[str]:
    """HumanEval's `check(candidate)` as one piece of Python per assertion, each with the statements before it that are none."""
    body = ast.parse(test).body
    check = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is None:
        raise ValueError("its test defines no check(candidate)")
    before = [node for node in body if node is not check]
    opening = [ast.unparse(node) for node in before] + [f"candidate = {entry_point}"]
    found = []
    for node in check.body:
        if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
            found.append("\n".join([*opening, ast.unparse(node)]))
        else:
            opening.append(ast.unparse(node))
    return found
