"""Talks to one vLLM server over HTTP: token ids in, token ids out, every count checked.

Why: a server may drop samples, ignore a cap or die behind a 200; a number that was never counted is not a result. Failures come in kinds
that call for different deeds: refused (the request is wrong), failed (try again later), invalid (the server breaks its word), engine gone.
What it does not do: no start or stop of engines (`serving`), no idea of thinking or answers (`thinking`), no tokenizer of its own.
"""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from thinkscale.choices import Choice as Choice
from thinkscale.choices import ResponseInvalid as ResponseInvalid
from thinkscale.choices import Said as Said
from thinkscale.choices import check_choices as check_choices
from thinkscale.choices import check_said as check_said
from thinkscale.choices import check_scores
from thinkscale.config import Sampling

RETRYABLE = (408, 425, 429, 500, 502, 503, 504)
KEEPALIVE = 3.0  # seconds; the server closes idle connections after 5, and a request that meets the closing is lost
LOCAL = ("127.0.0.1", "localhost", "::1")


class EngineFailure(RuntimeError):
    """The engine is of no more use; whatever it had not answered is still owed."""


class EngineNotStarted(EngineFailure):
    """No real completion came back in time, or the process ended before."""


class EngineDied(EngineFailure):
    """The process ended while it was needed."""


class EngineHung(EngineFailure):
    """Requests waited and no token came; the process group was killed."""


class RequestRefused(RuntimeError):
    """The server says the request is wrong (400, 401, 404, 422): sending it again is no use."""


class RequestFailed(RuntimeError):
    """Failed as often as we were willing to try; the work is owed."""


class Vitals:
    """What the client and the watch of `serving` tell each other about one engine."""

    def __init__(self, *, owned: bool) -> None:
        self.owned = owned  # we started it and hear of its end
        self.failure: EngineFailure | None = None
        self.in_flight = 0


@dataclass(frozen=True)
class Endpoint:
    """A server that answered a real completion."""

    base_url: str
    """Without /v1."""
    api_key: str = field(repr=False)
    model: str
    """Name under which the server serves it."""
    engine: str
    """Fingerprint: distribution, version, dtype, device."""
    log: Path | None
    """What the engine printed; None for a server that somebody else runs."""
    seeds: bool
    """A seed per request is allowed: on CPU it kills the engine."""
    vitals: Vitals = field(repr=False, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that carry the key."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def local(self) -> bool:
        """On this machine: then no proxy of the environment is asked."""
        return urlsplit(self.base_url).hostname in LOCAL


class Client:
    """Asks one endpoint; `async with Client(endpoint) as client`. Bound the number of calls in flight outside."""

    def __init__(self, endpoint: Endpoint, *, request_timeout: float = 3600.0, attempts: int = 6, backoff: float = 0.5) -> None:
        self.endpoint = endpoint
        self.request_timeout = request_timeout
        self.attempts = attempts
        self.backoff = backoff

    async def __aenter__(self) -> Self:
        # aiohttp, not httpx: httpx looks through all its connections for each request and sends headers and body apart, each of which
        # wakes the server; with 64 requests in flight that took longer than the engine (`make bench` compares)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE),
            headers=self.endpoint.headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0),  # the rest is bounded as a whole in _attempt
            trust_env=not self.endpoint.local,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.close()

    async def tokenize(
        self,
        text: str | Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        template_kwargs: dict[str, Any] | None = None,
        add_special_tokens: bool = False,
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """Token ids of plain text, or of messages through the chat template (which brings its own special tokens) with tools to be told."""
        body: dict[str, Any] = {"model": self.endpoint.model, "add_special_tokens": add_special_tokens}
        if isinstance(text, str):
            body["prompt"] = text
        else:
            body |= {"messages": list(text), "add_generation_prompt": add_generation_prompt, "chat_template_kwargs": template_kwargs or {}}
            body |= {"tools": list(tools)} if tools else {}
        answer = await self._post("/tokenize", body)
        return [int(token) for token in answer["tokens"]]

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens spelled out."""
        answer = await self._post("/detokenize", {"model": self.endpoint.model, "tokens": list(token_ids)})
        return str(answer["prompt"])

    async def complete(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        sampling: Sampling,
        stop_token_ids: Sequence[int] = (),
        seed: int | None = None,
        **more: Any,
    ) -> list[Choice]:
        """Draw n completions of every prompt in one request, in the order of the prompts.

        Args: more: further keys of the request (`logprobs`, `stop`, `thinking_token_budget`).
        Raises: RequestRefused, RequestFailed, ResponseInvalid, EngineDied, EngineHung.
        """
        if seed is not None and not self.endpoint.seeds:
            raise ValueError("a seed per request kills vLLM's CPU engine: pass none where endpoint.seeds is False")
        body = {
            "model": self.endpoint.model,
            "prompt": [list(prompt) for prompt in prompts],
            "n": n,
            "max_tokens": max_tokens,
            **sampling.model_dump(),
            "stop_token_ids": list(stop_token_ids),
            "return_token_ids": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            **more,
        }
        answer = await self._post("/v1/completions", body if seed is None else {**body, "seed": seed})
        return check_choices(answer, prompts, n, max_tokens, logprobs="logprobs" in more)

    async def chat(self, messages: Sequence[dict[str, Any]], max_tokens: int, sampling: Sampling, **more: Any) -> Said:
        """The next message of a conversation, as the server's parsers read it, and its ids. Raises as `complete`.

        Args: more: further keys of the request (`tools`, `chat_template_kwargs`, `seed`).
        """
        body = {"model": self.endpoint.model, "messages": list(messages), "max_tokens": max_tokens, "return_token_ids": True}
        return check_said(await self._post("/v1/chat/completions", {**body, **sampling.model_dump(), **more}), max_tokens)

    async def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first of every text, given what stands before it. Raises as `complete`."""
        body = {"model": self.endpoint.model, "prompt": [list(ids) for ids in texts], "max_tokens": 1, "temperature": 0}
        answer = await self._post("/v1/completions", {**body, "prompt_logprobs": 0, "return_token_ids": True})
        check_choices(answer, texts, 1, 1)
        try:
            seen = [choice["prompt_logprobs"] for choice in sorted(answer["choices"], key=lambda choice: int(choice["index"]))]
            pairs = [zip(ids[1:], at[1:], strict=True) for ids, at in zip(texts, seen, strict=True)]
            return [[float(at[str(token)]["logprob"]) for token, at in pair] for pair in pairs]
        except (KeyError, TypeError, ValueError) as e:
            raise ResponseInvalid(f"a response lacks log-probabilities of its prompt: {type(e).__name__}: {e}") from e

    async def classify(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """What a scorer says of each text: the probability of its last class (the sigmoid of a reward, where it has one class).

        Raises: as `complete`.
        """
        answer = await self._post(
            "/classify", {"model": self.endpoint.model, "input": [list(ids) for ids in texts], "use_activation": True}
        )
        return check_scores(answer, texts)

    async def metrics(self) -> dict[str, float]:
        """Counters and gauges of the engine now, see `parse_metrics`."""
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with self._http.get(f"{self.endpoint.base_url}/metrics", timeout=timeout, raise_for_status=True) as response:
            return parse_metrics(await response.text())

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        problem = ""
        for attempt in range(self.attempts):
            self._raise_if_gone()
            outcome = await self._attempt(path, body)
            if isinstance(outcome, dict):
                return outcome
            problem, wait = outcome
            if attempt < self.attempts - 1:
                await asyncio.sleep(max(wait, self.backoff * 2**attempt * random.uniform(0.5, 1.5)))
        self._raise_if_gone()
        raise RequestFailed(f"{path} of {self.endpoint.base_url} failed {self.attempts} times, at last: {problem}")

    async def _attempt(self, path: str, body: dict[str, Any]) -> dict[str, Any] | tuple[str, float]:
        """The answer, or what went wrong and for how many seconds the server wants to be left alone."""
        vitals = self.endpoint.vitals
        vitals.in_flight += 1
        try:
            async with (
                asyncio.timeout(self.request_timeout),
                self._http.post(f"{self.endpoint.base_url}{path}", json=body, allow_redirects=False) as response,
            ):
                text = (await response.read()).decode(errors="replace")
        except aiohttp.ClientError as e:  # before TimeoutError: its own timeouts are both
            # of an engine of ours, a port that nobody listens on says that it is gone; its supervisor may need a moment to tell us
            await self._hear_of_death(20.0 if isinstance(e, aiohttp.ClientConnectorError) else 0.4)
            return f"{type(e).__name__}: {e}", 0.0
        except TimeoutError:
            return f"no answer within {self.request_timeout:g} s", 0.0
        finally:
            vitals.in_flight -= 1
        if response.status in RETRYABLE:
            after = response.headers.get("Retry-After", "")
            return f"HTTP {response.status}: {_message(text)}", min(60.0, float(after)) if after.isdigit() else 0.0
        if response.status != 200:
            raise RequestRefused(f"{path}: HTTP {response.status}: {_message(text)}")
        try:
            answer = json.loads(text)
        except json.JSONDecodeError as e:
            return f"not valid JSON: {e}", 0.0
        return answer if isinstance(answer, dict) else (f"not a JSON object: {text[:200]}", 0.0)

    async def _hear_of_death(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.endpoint.vitals.owned and self.endpoint.vitals.failure is None and loop.time() < end:
            await asyncio.sleep(0.05)
        self._raise_if_gone()

    def _raise_if_gone(self) -> None:
        failure = self.endpoint.vitals.failure
        if failure is not None:
            raise type(failure)(str(failure))  # a fresh one: many requests raise it, each with its own traceback


_METRIC = re.compile(r"^vllm:(?P<name>\w+?)(?:_total)?(?:\{[^}]*\})? (?P<value>[-+0-9.eE]+)$", re.MULTILINE)


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus text -> name without `vllm:` and `_total` -> value, summed over labels; histograms are left out.

    Among them: generation_tokens, prompt_tokens, num_requests_running, num_requests_waiting, num_preemptions,
    prefix_cache_queries, prefix_cache_hits.
    """
    found: dict[str, float] = {}
    for match in _METRIC.finditer(text):
        name = match["name"]
        if not name.endswith(("_bucket", "_sum", "_count", "_created")):
            found[name] = found.get(name, 0.0) + float(match["value"])
    return found


def _message(text: str) -> str:
    """The server's own words, from the JSON that OpenAI's protocol puts them in, or the first of the text."""
    try:
        answer = json.loads(text)
        return str(answer["error"]["message"] if "error" in answer else answer["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return text[:300].strip()
