"""A fake vLLM server: the protocol that we use, deterministic tokens, and every way of failing on demand. Standard library only.

With `--runner pooling` it scores texts (/classify) and completes none.

Why: crashes, hangs and lies must be testable in seconds. Started with vLLM's flags (unknown ones are taken and ignored), key from
VLLM_API_KEY, ready in a fraction of a second: `Engine(command=(sys.executable, "tests/fake_vllm.py"))`.

Tokens. Every generated token is a function of (model name, prompt ids, index of the choice within its prompt, seed of the request,
position) and nothing else: neither batching nor order nor time, so that tables made from it are equal byte for byte. Thinking is words
up to a length drawn from the hash; most traces close with </think>, some never do, a few end inside with <|end|>. The answer to a prompt
with a sum in it is right with a probability that grows with the size in the model's name ("10k", "1m") and with the thinking tokens in
the prompt. Temperature, top_p and the like are ignored. Where the prompt speaks of `<tool>`, half of the words are calls, some malformed.

Faults. `--fault '{"kind": "crash", "after": 3}'`, the same in FAKE_VLLM_FAULT, or POST /fake/fault with it as the body (`{}` ends it).
`phase`: only requests of the phase `thinking`, `answers` or `scores` count and fail; `after`: completions requests that still go well (0);
`times`: how often it happens then (without limit); `once`: a file that is made when the fault sets in and that, if it exists, keeps it
away: for faults that a restart heals. Kinds:
  crash (SIGKILL to itself)  exit (status 3)  hang (accepts, never answers)  freeze (SIGSTOP to itself)
  500 | 503 | 400 | 429 (with retry_after seconds)  reset  slow (seconds)  cut_body  not_json
  wrong_n  empty  wrong_usage  ignore_cap  ignore_budget  over_budget (of the thinking_token_budget)  swap (choices under the wrong index)
  die_at_start (prints, and so many lines after it; status 1)  never_ready  late (seconds)  deaf (hears SIGTERM only after seconds)
`--children` starts a child (own process group) with a grandchild (own session), shared memory, a semaphore and a temporary file
that nobody removes.
"""

import argparse
import hashlib
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SPECIAL = ("<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-*/=<>?!.,:;()[]' \n"
BLOCK = 32  # tokens per block of the pretended prefix cache
WORDS = ("so ", "then ", "carry ", "add ", "now ", "wait ", "is ", "and ")
CALLS = ("<tool>12*34</tool>", "<tool>7+8</tool>", "<tool>1/0</tool>", "<tool>x</tool>", "</tool>")
CHAT_CALLS = (
    "<tool>calculator 12*34</tool>",
    "<tool>calculator 1/0</tool>",
    "<tool>calculator raw x</tool>",
    "<tool>abacus 1</tool>",
    "<tool>calculator 1</tool><tool>calculator 2</tool>",
)
STARTED = time.monotonic()


def log(text):
    print(text, file=sys.stderr, flush=True)


class Tokenizer:
    """One character or special token each; takes the vocabulary and chat template of the model's folder if it has such ones."""

    def __init__(self, folder):
        self.ids = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
        self.template = None
        if (folder / "tokenizer.json").is_file():
            data = json.loads((folder / "tokenizer.json").read_text())
            self.ids = dict(data["model"]["vocab"]) | {t["content"]: t["id"] for t in data.get("added_tokens", ())}
        if (folder / "chat_template.jinja").is_file():
            import jinja2

            self.template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
                (folder / "chat_template.jinja").read_text()
            )
        self.tokens = {i: token for token, i in self.ids.items()}
        special = sorted((t for t in self.ids if len(t) > 1), key=len, reverse=True)
        self.split = re.compile("|".join([*map(re.escape, special), r"[\s\S]"]))

    def encode(self, text):
        return [self.ids.get(t, self.ids.get(t.lower(), self.ids["<pad>"])) for t in self.split.findall(text)]

    def decode(self, ids):
        return "".join(self.tokens.get(i, "") for i in ids)

    def chat(self, messages, add_generation_prompt, **kwargs):
        if self.template is not None:
            text = self.template.render(messages=messages, add_generation_prompt=add_generation_prompt, **kwargs)
        else:
            told = str(kwargs.get("reasoning_effort", ""))
            text = told + "".join(self.message(m, **kwargs) for m in messages) + ("<|assistant|>" if add_generation_prompt else "")
            text += "" if kwargs.get("enable_thinking", True) else "<think></think>"
        return self.encode(("tools. " if kwargs.get("tools") else "") + text)

    def message(self, m, forgets=False, **_):
        """As a template writes it; one that `forgets` leaves out the thinking of earlier messages."""
        if m["role"] != "assistant":
            return f"<|user|>{m['content']}"
        thinking = "" if forgets else f"<think>{m['reasoning']}</think>"
        return f"<|assistant|>{thinking}{''.join(map(self.call, m['tool_calls']))}<|end|>"

    def call(self, called):
        """As the model wrote it: its letters have no quotes, so that JSON is the parser's doing."""
        name, arguments = called["function"]["name"], called["function"]["arguments"]
        return f"<tool>{name} {json.loads(arguments)['expression'] if arguments[:1] == '{' else f'raw {arguments}'}</tool>"


class Draw:
    """Numbers in [0, 1) that depend on nothing but the key."""

    def __init__(self, *key):
        self.key = json.dumps(key).encode()

    def __call__(self, what):
        return int.from_bytes(hashlib.sha256(self.key + what.encode()).digest()[:6]) / 2**48


class FakeModel:
    def __init__(self, name, tokenizer):
        self.name, self.tokenizer = name, tokenizer
        size = re.search(r"(\d+(?:\.\d+)?)([kmb])", name.lower())
        self.log_size = math.log10(float(size[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[size[2]]) if size else 5.0

    def generate(self, prompt, choice, seed):
        """All the tokens that this choice would have without a cap (at most a few thousand)."""
        t = self.tokenizer.ids
        draw = Draw(self.name, prompt, choice, seed)
        opens = max((i for i, token in enumerate(prompt) if token == t["<think>"]), default=-1)
        closes = max((i for i, token in enumerate(prompt) if token == t["</think>"]), default=-1)
        if closes > opens:
            return self.answer(prompt, opens, closes, draw)
        length = 3 + int(-math.log(1 - draw("length")) * 14)
        calls = "<tool>" in self.tokenizer.decode(prompt[: max(opens, 0)])
        if draw("never closes") < 0.08:
            return self.think(draw, 4096, calls)
        if draw("ends inside") < 0.04:
            return [*self.think(draw, length, calls), t["<|end|>"]]
        tokens = [*self.think(draw, length, calls), t["</think>"]]
        whole = [*prompt, *tokens]
        return tokens + self.answer(whole, opens if opens >= 0 else len(prompt) - 1, len(whole) - 1, draw)

    def message(self, prompt, seed, may_call):
        """A turn of a conversation: thinking, then calls or an answer."""
        t, draw = self.tokenizer.ids, Draw(self.name, prompt, "message", seed)
        if not may_call or draw("calls") > 0.6:
            return [t["<think>"], *self.generate([*prompt, t["<think>"]], 0, seed)]
        said = CHAT_CALLS[int(draw("which") * len(CHAT_CALLS))]
        return [t["<think>"], *self.think(draw, 2 + int(draw("length") * 5), False), *self.tokenizer.encode(f"</think>{said}<|end|>")]

    def closed_at(self, tokens, budget):
        """With the thinking ended at the budget, as vLLM's `thinking_token_budget` does."""
        close = self.tokenizer.ids["</think>"]
        return tokens if close in tokens[: budget + 1] else [*tokens[:budget], close]

    def think(self, draw, length, calls):
        text = ""
        while len(text) < length:
            n = len(text)
            if calls and draw(f"call {n}") < 0.5:
                text += CALLS[int(draw(f"which {n}") * len(CALLS))]
                continue
            text += WORDS[int(draw(f"word {n}") * len(WORDS))] + f"{int(draw(f'number {n}') * 100)} "
        return self.tokenizer.encode(text[:length])

    def answer(self, prompt, opens, closes, draw):
        question = self.tokenizer.decode(prompt[: max(opens, 0)])
        p = 1 / (1 + math.exp(-(1.2 * (self.log_size - 5.5) + 0.12 * min(closes - opens - 1, 40) - 0.5)))
        sums = re.findall(r"\d+(?:[+*-]\d+)+", question)
        value = eval(sums[-1]) if sums else int(draw("guess") * 10)  # digits and signs only: nothing else matches
        if draw("right") >= p:
            value += 1 + int(draw("wrong") * 8)
        return [*self.tokenizer.encode(str(value)), self.tokenizer.ids["<|end|>"]]

    def score(self, ids):
        """Of a pooling model: about P(right) of the answer to a sum, and a number of its own for everything else."""
        t = self.tokenizer.ids
        closes = max((i for i, token in enumerate(ids) if token == t["</think>"]), default=len(ids))
        sums = re.findall(r"\d+(?:[+*-]\d+)+", self.tokenizer.decode(ids[:closes]).split("<think>")[0])
        right = bool(sums) and self.tokenizer.decode(ids[closes + 1 :]) == str(eval(sums[-1]))
        return 0.1 + 0.5 * right + 0.3 * Draw(self.name, ids)("score")


class Faults:
    def __init__(self, spec):
        self.lock = threading.Lock()
        self.set(spec)

    def set(self, spec):
        with self.lock:
            self.spec = dict(spec)
            self.after, self.times = int(spec.get("after", 0)), float(spec.get("times", math.inf))

    def next(self, phase):
        """Kind of fault that this completion request shall meet, or ''."""
        with self.lock:
            if not self.spec or self.spec["kind"] in ("die_at_start", "never_ready", "late", "deaf"):
                return ""
            if self.spec.get("phase", phase) != phase:
                return ""
            if self.after > 0:
                self.after -= 1
                return ""
            if self.times <= 0 or not self.takes_place():
                return ""
            self.times -= 1
            return str(self.spec["kind"])

    def takes_place(self):
        """False if a fault that a restart heals has been before."""
        if "once" in self.spec and not getattr(self, "begun", False):
            try:
                Path(self.spec["once"]).open("x").close()
            except FileExistsError:
                return False
            self.begun = True
        return True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self):  # without the base class's look-up of our host name, which takes seconds where there is no DNS
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.server_address

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class State:
    def __init__(self, args):
        self.args = args
        self.key = os.environ.get("VLLM_API_KEY", "")
        self.tokenizer = Tokenizer(Path(args.model))
        self.name = args.served_model_name or args.model
        self.model = FakeModel(self.name, self.tokenizer)
        self.faults = Faults(json.loads(args.fault or os.environ.get("FAKE_VLLM_FAULT") or "{}"))
        self.lock = threading.Lock()
        self.counts = dict.fromkeys(
            ("generation_tokens", "prompt_tokens", "prefix_cache_queries", "prefix_cache_hits", "num_preemptions"), 0
        )
        self.running = 0
        self.cache = set()
        self.requests = 0

    def healthy(self):
        kind = self.faults.spec.get("kind")
        return not (kind == "never_ready" or (kind == "late" and time.monotonic() - STARTED < self.faults.spec["seconds"]))

    def count_prompt(self, prompt):
        hits = 0
        with self.lock:
            for end in range(BLOCK, len(prompt), BLOCK):
                key = hash(tuple(prompt[:end]))
                hits += BLOCK if key in self.cache else 0
                self.cache.add(key)
            self.counts["prompt_tokens"] += len(prompt)
            self.counts["prefix_cache_queries"] += len(prompt)
            self.counts["prefix_cache_hits"] += hits

    def metrics(self):
        label = f'{{engine="0",model_name="{self.name}"}}'
        lines = [f"vllm:{name}_total{label} {float(value)}" for name, value in self.counts.items()]
        lines += [f"vllm:num_requests_running{label} {float(self.running)}", f"vllm:num_requests_waiting{label} 0.0"]
        return "\n".join(lines) + "\n"


def logprob(prompt, at):
    """Of a token of a text, depending on it and the token before: any numbers that are always the same."""
    return -((7 * prompt[at] + prompt[at - 1]) % 13 + 1) / 4


class Refused(Exception):
    pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    @property
    def state(self):
        return self.server.state

    def log_message(self, *_):
        pass

    def reply(self, status, body, headers=()):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, message, headers=()):
        self.reply(status, {"error": {"message": message, "type": "fake", "code": status}}, headers)

    def allowed(self):
        if self.path.startswith("/v1") and self.state.key and self.headers.get("Authorization") != f"Bearer {self.state.key}":
            self.error(401, "Unauthorized")
            return False
        return True

    def do_GET(self):
        if not self.allowed():
            return
        answers = {
            "/health": lambda: self.reply(200 if self.state.healthy() else 503, ""),
            "/version": lambda: self.reply(200, {"version": "fake"}),
            "/metrics": lambda: self.reply(200, self.state.metrics()),
            "/v1/models": lambda: self.reply(200, {"object": "list", "data": [{"id": self.state.name, "object": "model"}]}),
            "/fake/requests": lambda: self.reply(200, {"completions": self.state.requests}),
        }
        answers.get(self.path, lambda: self.error(404, "Not Found"))()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if not self.allowed():
            return
        if self.path == "/fake/fault":
            self.state.faults.set(body)
            self.reply(200, {})
        elif body.get("model") not in (None, self.state.name):
            self.error(404, f"The model `{body['model']}` does not exist.")
        elif self.path == "/tokenize":
            t = self.state.tokenizer
            ids = t.encode(body["prompt"]) if "prompt" in body else t.chat(
                body["messages"], body.get("add_generation_prompt", True), tools=body.get("tools"),
                **body.get("chat_template_kwargs") or {}
            )  # fmt: skip
            self.reply(200, {"count": len(ids), "max_model_len": self.state.args.max_model_len, "tokens": ids})
        elif self.path == "/detokenize":
            self.reply(200, {"prompt": self.state.tokenizer.decode(body["tokens"])})
        elif self.path == "/classify" and self.state.args.runner == "pooling":
            self.completions(body, lambda asked, kind: self.classified(asked["input"]))
        elif self.path == "/v1/completions" and self.state.args.runner == "generate":
            self.completions(body, self.answer)
        elif self.path == "/v1/chat/completions" and self.state.args.runner == "generate":
            self.completions(body, self.chat)
        else:
            self.error(404, "Not Found")

    def completions(self, body, answer_of):
        state = self.state
        if not state.healthy():
            return self.error(503, "not ready")
        with state.lock:
            state.requests += 1
            state.running += 1
        try:
            kind = state.faults.next("scores" if "input" in body else self.phase(body))
            if kind and self.break_before(kind):
                return None
            try:
                answer = answer_of(body, kind)
            except Refused as e:
                return self.error(400, str(e))
            return self.send_broken(kind, answer)
        finally:
            with state.lock:
                state.running -= 1

    def phase(self, body):
        """What a request is for: `thinking`, `answers` (its prompt holds a closed thinking), or neither."""
        if "messages" in body:
            return "thinking"
        t, prompt = (
            self.state.tokenizer.ids,
            body["prompt"][0] if body["prompt"] and isinstance(body["prompt"][0], list) else body["prompt"],
        )
        return "answers" if t["</think>"] in prompt else "thinking" if t["<think>"] in prompt else ""

    def break_before(self, kind):
        """Faults that come instead of an answer; True if there will be none."""
        spec = self.state.faults.spec
        if kind in ("crash", "freeze", "exit"):
            log(f"fake: {kind}")
            os._exit(3) if kind == "exit" else os.kill(os.getpid(), signal.SIGKILL if kind == "crash" else signal.SIGSTOP)
        if kind in ("crash", "freeze", "hang"):  # the signal may take a moment to reach this thread
            threading.Event().wait()
        elif kind == "slow":
            time.sleep(spec["seconds"])
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            self.wfile = open(os.devnull, "wb")  # noqa: SIM115 - the base class still flushes and closes it
            return True
        elif kind.isdigit():
            self.error(int(kind), f"fake fault {kind}", [("Retry-After", str(spec["retry_after"]))] if "retry_after" in spec else ())
            return True
        return False

    def answer(self, body, kind):
        state = self.state
        prompts = body["prompt"]
        if isinstance(prompts, str):
            prompts = [state.tokenizer.encode(prompts)]
        elif prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        cap, n = body.get("max_tokens", 16), body.get("n", 1)
        choices, limit = [], max(state.tokenizer.tokens)
        budget = body.get("thinking_token_budget")
        if budget is not None and not state.args.reasoning_config:
            raise Refused("thinking_token_budget is set but reasoning_config is not configured.")
        for prompt in prompts:
            if len(prompt) >= state.args.max_model_len:
                raise Refused(f"This model's maximum context length is {state.args.max_model_len} tokens, the prompt has {len(prompt)}.")
            if not prompt or max(prompt) > limit:
                raise Refused(f"Token id {max(prompt, default=None)} is out of vocabulary")
        stops = {state.tokenizer.ids["<|end|>"], *(body.get("stop_token_ids") or ())}
        for prompt in prompts:
            for i in range(n):
                state.count_prompt(prompt)
                room = min(cap, state.args.max_model_len - len(prompt))  # vLLM, too, lowers the cap in silence
                tokens = state.model.generate(prompt, i, body.get("seed"))
                if budget is not None and kind != "ignore_budget":
                    tokens = state.model.closed_at(tokens, budget + (kind == "over_budget") * 3)
                if kind == "ignore_cap":  # whatever it would have said, it says too much
                    tokens, room = [prompt[-1]] * (room + 3), room + 3
                choices.append(self.choice(len(choices), prompt, tokens, room, stops, body))
                if body.get("prompt_logprobs") is not None:
                    known = [{str(token): {"logprob": logprob(prompt, at)}} for at, token in enumerate(prompt)]
                    choices[-1]["prompt_logprobs"] = [None, *known[1:]]
        total = sum(len(c["token_ids"]) for c in choices)
        with state.lock:
            state.counts["generation_tokens"] += total
        usage = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": total, "total_tokens": sum(map(len, prompts)) + total}
        return {"id": "cmpl-fake", "object": "text_completion", "model": state.name, "choices": choices, "usage": usage}

    def chat(self, body, kind):
        """One message, with the calls in it as a parser reads them."""
        state, tools = self.state, body.get("tools")
        if tools and not (state.args.enable_auto_tool_choice and state.args.tool_call_parser):
            raise Refused('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
        prompt = state.tokenizer.chat(body["messages"], True, tools=tools, **body.get("chat_template_kwargs") or {})
        room = min(body["max_tokens"], state.args.max_model_len - len(prompt))
        tokens = state.model.message(prompt, body.get("seed"), bool(tools))
        drawn = self.choice(0, prompt, tokens, room, {state.tokenizer.ids["<|end|>"]}, {})
        thinking, _, rest = drawn["text"].removeprefix("<think>").partition("</think>")
        said = re.findall(r"<tool>(\w+) (raw )?(.*?)</tool>", rest)
        read = [{"name": name, "arguments": text if raw else json.dumps({"expression": text})} for name, raw, text in said]
        calls = [{"id": f"call-{len(prompt)}-{i}", "type": "function", "function": function} for i, function in enumerate(read)]
        message = {"role": "assistant", "content": None if calls else rest, "reasoning": thinking, "tool_calls": calls}
        reason = "tool_calls" if calls and drawn["finish_reason"] == "stop" else drawn["finish_reason"]
        total = len(drawn["token_ids"])
        with state.lock:
            state.counts["generation_tokens"] += total
        choice = {"index": 0, "message": message, "finish_reason": reason, "token_ids": drawn["token_ids"], "stop_reason": None}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": total, "total_tokens": len(prompt) + total}
        return {"object": "chat.completion", "choices": [choice], "prompt_token_ids": prompt, "usage": usage}

    def classified(self, texts):
        state = self.state
        for ids in texts:
            if not ids or len(ids) > state.args.max_model_len or max(ids) > max(state.tokenizer.tokens):
                raise Refused(f"a text of {len(ids)} tokens, at most {state.args.max_model_len} of the vocabulary")
            state.count_prompt(ids)
        data = [{"index": i, "label": "right", "probs": [state.model.score(ids)], "num_classes": 1} for i, ids in enumerate(texts)]
        return {"id": "classify-fake", "object": "list", "data": data, "usage": {"prompt_tokens": sum(map(len, texts))}}

    def choice(self, index, prompt, tokens, cap, stops, body):
        end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
        said, texts = None, [self.state.tokenizer.decode([t]) for t in tokens]
        for i in range(min(end, cap) if body.get("stop") else 0):  # a stop text ends it with the token that completes it
            said = next((text for text in body["stop"] if text in "".join(texts[: i + 1])), None)
            if said is not None:
                end = i
                break
        kept, reason, stop = (tokens[: end + 1], "stop", tokens[end]) if end < min(cap, len(tokens)) else (tokens[:cap], "length", None)
        text = self.state.tokenizer.decode(kept[:-1] if reason == "stop" else kept)
        if said is not None:
            text, stop = self.state.tokenizer.decode(kept), said
        elif stop == self.state.tokenizer.ids["<|end|>"]:
            stop = None  # vLLM names only those stop tokens that were asked for
        return {
            "index": index,
            "text": text,
            "token_ids": kept,
            "prompt_token_ids": prompt,
            "logprobs": self.logprobs(kept, texts, prompt, body) if "logprobs" in body else None,
            "finish_reason": reason,
            "stop_reason": stop,
        }

    def logprobs(self, kept, texts, prompt, body):
        """Made up, the same for the same tokens."""
        asked = {f"token_id:{t}": -0.01 * (1 + (t + len(prompt)) % 7) for t in body.get("logprob_token_ids") or ()}
        said = {"tokens": texts[: len(kept)], "token_logprobs": [-0.01 * (1 + token % 7) for token in kept]}
        return said | {"top_logprobs": [asked] * len(kept)}

    def send_broken(self, kind, answer):
        """Faults within an answer."""
        choices = answer["choices"] if "choices" in answer else answer["data"]
        if kind == "wrong_n":
            choices.pop()
        elif kind == "empty":
            choices[0] |= {"token_ids": [], "text": ""}
        elif kind == "wrong_usage":
            answer["usage"]["completion_tokens" if "choices" in answer else "prompt_tokens"] += 1
        elif kind == "swap" and len(choices) > 1:
            choices[0]["index"], choices[-1]["index"] = choices[-1]["index"], choices[0]["index"]
        data = json.dumps(answer)
        if kind == "not_json":
            self.reply(200, data[: len(data) // 2])
        elif kind == "cut_body":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2].encode())
            self.close_connection = True
        else:
            self.reply(200, answer)


CHILD = """
import multiprocessing, os, subprocess, sys, tempfile, time
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(create=True, size=64)
semaphore = multiprocessing.get_context("spawn").Semaphore()
resource_tracker.unregister(memory._name, "shared_memory")  # so that nobody but the supervisor removes them
resource_tracker.unregister(semaphore._semlock.name, "semaphore")
p = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
names = memory.name, "sem." + semaphore._semlock.name.lstrip("/"), tempfile.mkstemp()[1]
print("fake: children", os.getpid(), p.pid, *names, file=sys.stderr, flush=True)
time.sleep(600)
"""


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--served-model-name", "--host", "--fault"):
        parser.add_argument(flag)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int, default=256)
    parser.add_argument("--reasoning-config", default="")
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    parser.add_argument("--tool-call-parser", default="")
    parser.add_argument("--runner", default="generate")
    parser.add_argument("--children", action="store_true")
    args, _ = parser.parse_known_args()
    if args.children:
        subprocess.Popen([sys.executable, "-c", CHILD], process_group=0)
    state = State(args)
    if state.faults.spec.get("kind") == "die_at_start" and state.faults.takes_place():
        log("fake: RuntimeError: no weights in this folder")
        for number in range(state.faults.spec.get("lines", 0)):
            log(f"  frame {number} of another process")
        log("fake: RuntimeError: Engine core initialization failed. See root cause above.")
        sys.exit(1)
    server = Server((args.host or "127.0.0.1", args.port), Handler)
    server.state = state

    def end(*_):
        if state.faults.spec.get("kind") == "deaf" and state.faults.takes_place():
            time.sleep(state.faults.spec["seconds"])
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    log(f"fake: {state.name} listens on port {args.port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
