"""What comes back from a request, and whether it adds up.

Why: a server may drop samples, ignore a cap or answer another prompt; a number that was never counted is not a result.
What it does not do: ask (see `endpoint`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class ResponseInvalid(RuntimeError):
    """An answer that contradicts itself or the request: counts that do not add up, a cap that was ignored. Never data."""


class Choice(NamedTuple):
    """One completion."""

    prompt_index: int
    token_ids: tuple[int, ...]
    """Everything that was generated, a stop token included."""
    text: str
    """The same as text, special tokens spelled out; without the token that stopped it."""
    finish_reason: str
    """stop or length."""
    stop_reason: int | str | None
    """The stop token id or text that ended it; None for the model's own end of text, and for length."""
    token_texts: tuple[str, ...] = ()
    """The tokens one by one, where `logprobs` were asked for."""
    logprob: float | None = None
    """Of all its tokens together, by the model itself (before temperature and the like), where `logprobs` were asked for."""
    first_logprobs: dict[str, float] = {}  # noqa: RUF012 - never changed
    """Of the first token: what else was asked for by id, as `token_id:7`."""


def check_choices(
    answer: dict[str, Any], prompts: Sequence[Sequence[int]], n: int, max_tokens: int, logprobs: bool = False
) -> list[Choice]:
    """The choices of a completion response, in order, if everything about them adds up. Raises ResponseInvalid."""
    try:
        raw = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in raw] != list(range(len(prompts) * n)):
            raise ResponseInvalid(
                f"asked for {len(prompts)} prompts × {n} choices, got {len(raw)} with indices {[c['index'] for c in raw][:20]}"
            )
        for choice in raw:
            echoed = choice.get("prompt_token_ids")
            if echoed is not None and echoed != list(prompts[choice["index"] // n]):
                raise ResponseInvalid(f"choice {choice['index']} answers another prompt than the one it was asked")
        choices = [
            Choice(c["index"] // n, tuple(c["token_ids"]), c["text"], c["finish_reason"], c.get("stop_reason"), *_logprobs(c, logprobs))
            for c in raw
        ]
        counted = int(answer["usage"]["completion_tokens"])
    except (KeyError, TypeError, ValueError) as e:
        raise ResponseInvalid(f"a completion response lacks or garbles a field: {type(e).__name__}: {e}") from e
    for index, choice in enumerate(choices):
        if not choice.token_ids:
            raise ResponseInvalid(f"choice {index} is empty")
        if len(choice.token_ids) > max_tokens:
            raise ResponseInvalid(
                f"choice {index} has {len(choice.token_ids)} tokens, the cap was {max_tokens}: the server ignores its cap"
            )
        if choice.finish_reason == "length" and len(choice.token_ids) < max_tokens:
            raise ResponseInvalid(  # vLLM lowers max_tokens to what the context holds and says nothing
                f"choice {index} was cut after {len(choice.token_ids)} tokens, the cap was {max_tokens}: the prompt of "
                f"{len(prompts[choice.prompt_index])} tokens leaves no more room in the server's context"
            )
        if choice.finish_reason not in ("stop", "length"):
            raise ResponseInvalid(f"choice {index} ended with '{choice.finish_reason}'")
    found = sum(len(choice.token_ids) for choice in choices)
    if found != counted:
        raise ResponseInvalid(f"the choices hold {found} tokens, the server's usage says {counted}")
    return choices


def check_scores(answer: dict[str, Any], texts: Sequence[Sequence[int]]) -> list[float]:
    """The scores of a classification response, in order, if everything about them adds up. Raises ResponseInvalid."""
    try:
        raw = sorted(answer["data"], key=lambda one: int(one["index"]))
        places, scores = [one["index"] for one in raw], [float(one["probs"][-1]) for one in raw]
        read = int(answer["usage"]["prompt_tokens"])
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise ResponseInvalid(f"a classification response lacks or garbles a field: {type(e).__name__}: {e}") from e
    if places != list(range(len(texts))):
        raise ResponseInvalid(f"asked for the scores of {len(texts)} texts, got {len(raw)} with indices {places[:20]}")
    odd = [score for score in scores if not 0 <= score <= 1]
    if odd:
        raise ResponseInvalid(f"a score is {odd[0]:g}: not a probability. Serve a model whose head ends in a sigmoid or softmax")
    if read != sum(map(len, texts)):
        raise ResponseInvalid(f"the server read {read} tokens, it was sent {sum(map(len, texts))}: a text was cut or padded")
    return scores


def _logprobs(choice: dict[str, Any], wanted: bool) -> tuple[tuple[str, ...], float | None, dict[str, float]]:
    """Texts of the tokens, their log-probabilities' sum, and those of the first place. Raises ValueError, TypeError, KeyError."""
    if not wanted:
        return (), None, {}
    texts, each = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
    if not len(texts) == len(each) == len(choice["token_ids"]):
        raise ValueError(f"{len(each)} log-probabilities of {len(choice['token_ids'])} tokens")
    return tuple(texts), float(sum(each)), (choice["logprobs"].get("top_logprobs") or [{}])[0]


class Call(NamedTuple):
    """A call of a tool as the server's parser read it."""

    id: str
    name: str
    arguments: str
    """JSON, if the model wrote it."""


class Said(NamedTuple):
    """One message of a model in a conversation."""

    prompt_ids: tuple[int, ...]
    """What the chat template made of the conversation so far."""
    token_ids: tuple[int, ...]
    """Everything that was generated, the end of the turn included."""
    finish_reason: str
    calls: tuple[Call, ...]
    message: dict[str, Any]
    """To be sent back as a part of the conversation."""


def check_said(answer: dict[str, Any], max_tokens: int) -> Said:
    """The message of a chat response, if everything about it adds up. Raises ResponseInvalid."""
    try:
        (choice,) = answer["choices"]
        raw = choice["message"].get("tool_calls") or []
        calls = tuple(Call(str(c["id"]), str(c["function"]["name"]), str(c["function"]["arguments"])) for c in raw)
        prompt, ids = tuple(answer["prompt_token_ids"]), tuple(choice["token_ids"])
        counted = int(answer["usage"]["prompt_tokens"]), int(answer["usage"]["completion_tokens"])
        kept = {key: choice["message"][key] for key in ("content", "reasoning") if choice["message"].get(key) is not None}
        reason = str(choice["finish_reason"])
    except (KeyError, TypeError, ValueError) as e:
        raise ResponseInvalid(f"a chat response lacks or garbles a field: {type(e).__name__}: {e}") from e
    if not 0 < len(ids) <= max_tokens or (len(prompt), len(ids)) != counted:
        raise ResponseInvalid(
            f"a chat response holds {len(prompt)} + {len(ids)} tokens, its usage says {counted}, the cap was {max_tokens}"
        )
    if reason not in ("stop", "length", "tool_calls") or (reason == "length" and len(ids) < max_tokens):
        raise ResponseInvalid(f"a message of {len(ids)} tokens ended with '{reason}', the cap was {max_tokens}")
    told = {"tool_calls": raw} if calls else {}
    return Said(prompt, ids, reason, calls, {"role": "assistant", "content": "", **kept, **told})
