"""YAML, strictly: a key given twice, an unknown key or a value of another kind is one sentence that names file, key and way out.

Why: what a YAML reader takes in silence (the second of two keys, a misspelt one) would be another experiment than the one that was meant.
What it does not do: know what the values mean (see `loading`).
"""

import difflib
import json
import math
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from thinkscale.sources import ConfigError, Strict

T = TypeVar("T", bound=Strict)

MOST_VALUES = 100_000
"""In one YAML file; the catalogue has a few thousand."""


def nearest(found: str, valid: Any) -> str:
    """' Did you mean ...?' where a valid name is close to what was found, otherwise the list of valid names."""
    names = sorted(str(v) for v in valid)
    close = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Valid: {', '.join(names)}."


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a file. Raises ConfigError."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as e:
        where = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise ConfigError(f"{path.name}{where}: not valid YAML: {', '.join(filter(None, (e.context, e.problem)))}.") from e
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path.name}: not a YAML file in UTF-8: {' '.join(str(e).split())}.") from e
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}.") from e
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path.name}: expected keys and values, as `name: my-experiment`, found {'nothing' if raw is None else repr(raw)[:60]}."
        )
    return raw


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a second key replace the first in silence, and a few lines of anchors stand for billions of values: both are errors."""

    def construct_document(self, node: yaml.Node) -> Any:
        self._size(node, {})
        return super().construct_document(node)

    def _size(self, node: yaml.Node, known: dict[int, float]) -> float:
        """Values that a node stands for, anchors written out."""
        if id(node) not in known:
            known[id(node)] = math.inf  # until its parts are counted: what holds itself has no end
            pairs = isinstance(node, yaml.MappingNode)
            parts = [part for pair in node.value for part in pair] if pairs else node.value if isinstance(node, yaml.SequenceNode) else []
            known[id(node)] = 1 + sum(self._size(part, known) for part in parts)
            if known[id(node)] > MOST_VALUES:
                problem = f"with its anchors (&) written out this is more than {MOST_VALUES:,} values"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return known[id(node)]

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Numbers of YAML 1.1 that everybody reads otherwise are errors: 010 is 8 there, and 1:30 is 90."""
        base = _base(str(node.value)) if node.tag in _NUMBERS else ""
        if base:
            problem = f"{node.value} would be read in base {base}: write a decimal number, or '{node.value}' in quotes where it is text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _base(number: str) -> str:
    """Base in which YAML 1.1 reads a number that has no mark of its base (0x, 0b); "" for decimal ones."""
    digits = number.lstrip("+-")
    return "60" if ":" in digits else "8" if re.fullmatch(r"0[0-7_]+", digits) else ""


# YAML 1.1 reads the words on, off, yes and no as truth values, also as keys (`off:` of Thinking): as in YAML 1.2, only true and false are
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeys.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def validate(cls: type[T], raw: dict[str, Any], path: Path) -> T:
    """Pydantic's first error as one sentence in our words."""
    try:
        # JSON mode: YAML has lists where we want tuples, and 1 where we want 1.0; both are what the user meant
        return cls.model_validate_json(json.dumps(raw))
    except (ValidationError, TypeError) as e:
        if isinstance(e, TypeError):
            raise ConfigError(f"{path.name}: a value that is neither text, number, truth value, list nor mapping: {e}") from e
        # a misspelt key that must be there is two errors, missing and unknown: the second one helps
        error = next((found for found in e.errors() if found["type"] == "extra_forbidden"), e.errors()[0])
        where = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            raise ConfigError(
                f"{path.name}: unknown key '{where}'.{nearest(str(error['loc'][-1]), _keys_at(cls, error['loc'][:-1]))}"
            ) from e
        found = "" if error["type"] == "missing" else f", found {error['input']!r}"
        raise ConfigError(f"{path.name}: {where}: {error['msg']}{found}.") from e


def _keys_at(cls: type[Strict], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that stands at `loc`."""
    current: Any = cls
    for part in loc:
        annotation = (
            current.model_fields[part].annotation
            if isinstance(current, type) and issubclass(current, Strict) and part in current.model_fields
            else current
        )
        current = next((c for c in _classes(annotation)), current)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, Strict) else []


def _classes(annotation: Any) -> list[type[Strict]]:
    """Strict classes anywhere inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [c for arg in getattr(annotation, "__args__", ()) for c in _classes(arg)]
