"""A fake vLLM: a real process on a Unix socket that answers as vLLM does, and does on demand what vLLM won't.

Faults come from `fake.json` beside the socket, read again at each request (an engine's environment is closed):
start_delay_s, load_delay_s, canary_delay_s, unload_delay_s, refuse_start, chunks, chunk_bytes, chunk_delay_s, tokens_per_event, die_after_chunks, hang, hang_generation,
ignore_sigterm, load_error, as_base, nonsense, refuse ({status, message}), prefill_s (of a stream, after its headers), poison (a text that kills it), core_dies_of (a text),
raw ({text, times, then}: bytes in place of an answer's, head and all; then: close, or hang). What was asked last lies in
`ENGINE.asked` beside the socket. With --enable-sleep-mode it sleeps and wakes, and writes its memory (bytes) to
`ENGINE.memory` beside the socket, as a GPU would tell it: weights_bytes awake; with sleep_frees_nothing, asleep too.
Routes that no user may reach, fields and headers that the gateway never sends, are tripwires: a hit is written to `tripped.txt` beside the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tree that this file lies in, wherever Sumika is installed

from aiohttp import web

from sumika.serving import engine_routes
from tests import fake_answers, fake_apis

# A whole answer, by what it is or by the endpoint that gives it.
WHOLE: dict[str, Callable[[dict[str, Any], list[str]], dict[str, Any]]] = {
    "chat.completion": fake_answers.chat,
    "text_completion": fake_answers.completion,
    "/v1/responses": fake_apis.response,
    "/v1/messages": fake_apis.message,
    "/v1/messages/count_tokens": lambda body, _: fake_apis.count_tokens(body),
    "/v1/embeddings": lambda body, _: fake_apis.embeddings(body),
    "/rerank": lambda body, _: fake_apis.rerank(body),
    "/tokenize": lambda body, _: fake_apis.tokenize(body),
    "/detokenize": lambda body, _: fake_apis.detokenize(body),
}
# All that the gateway tells an engine beside the body, and fields of vLLM that no client may set.
HEADERS = {"host", "content-type", "x-request-id", "content-length", "traceparent"}
FIELDS = {
    "chat_template", "chat_template_kwargs", "continue_final_message", "documents", "mm_processor_kwargs", "media_io_kwargs",
    "priority", "request_id", "kv_transfer_params", "vllm_xargs", "lora_request", "structured_outputs", "guided_json", "guided_regex", "guided_grammar",
    "bad_words", "allowed_token_ids", "logits_processors", "prompt_embeds", "best_of", "use_beam_search", "min_tokens", "stop_token_ids", "ignore_eos",
    "prompt_logprobs", "truncate_prompt_tokens", "user", "metadata",
}  # fmt: skip
SLEEP = ("/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache")


class Fake:
    """One engine: a base, the adapters it was told to load, and how many requests run."""

    def __init__(self, base: str, socket: Path, task: str = "chat") -> None:
        self.base = base
        self.task = task
        self.socket = socket
        self.adapters: dict[str, Path] = {}
        self.running = 0
        self.made = 0  # tokens, as vLLM counts them
        self.lost = False  # a level 2 sleep threw weights away that were not reloaded

    def script(self, key: str, default: Any) -> Any:
        try:
            return json.loads((self.socket.parent / "fake.json").read_text()).get(key, default)
        except FileNotFoundError:
            return default

    async def health(self, _: web.Request) -> web.Response:
        if self.script("hang", False):
            await asyncio.sleep(3600)
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        data = [{"id": self.base, "parent": None}] + [
            {"id": name, "parent": self.base, "root": str(path)} for name, path in self.adapters.items()
        ]
        return web.json_response({"object": "list", "data": data})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        await asyncio.sleep(self.script("load_delay_s", 0))
        if name == self.script("load_error", None) or not (path / "adapter_config.json").is_file():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        self.adapters[name] = path
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.script("unload_delay_s", 0))
        self.adapters.pop((await request.json())["lora_name"], None)
        return web.Response(text="Success")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.task != "chat":
            return _error(501, "The model does not support Completions API")
        if self.script("hang_generation", None) in (True, self.base):
            await asyncio.sleep(3600)
        if "prompt_logprobs" not in body:
            return await self.answer(request, body, "text_completion")
        await asyncio.sleep(self.script("canary_delay_s", 0))
        ids, told = body["prompt"], [None] * len(body["prompt"])
        path = self.adapters.get(body["model"])
        for prompt in json.loads((path / "canary.json").read_text())["prompts"] if path else []:
            if prompt["prompt_ids"] + prompt["answer_ids"] == ids:
                values = prompt["base" if self.lost or self.script("as_base", False) else "adapter"]
                for at, (token, value) in enumerate(zip(prompt["answer_ids"], values, strict=True), len(prompt["prompt_ids"])):
                    told[at] = {str(token): {"logprob": value}}
        return web.json_response(
            {"choices": [{"text": "", "prompt_logprobs": None if path and self.script("nonsense", False) else told}]}
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request, await request.json(), "chat.completion")

    async def answer(self, request: web.Request, body: dict[str, Any], kind: str) -> web.StreamResponse:
        name = body["model"]
        if name != self.base and name not in self.adapters:
            return _error(404, f"The model `{name}` does not exist.")
        if self.script("hang_generation", None) in (True, self.base):
            await asyncio.sleep(3600)
        if name in self.adapters and not self.adapters[name].is_dir():
            os.kill(os.getpid(), signal.SIGKILL)  # as vLLM, once it has forgotten the adapter and must read it again
        if self.asked_for("poison", body):
            os.kill(os.getpid(), signal.SIGKILL)
        self.running += 1
        self.made += 1
        try:
            if raw := self.script("raw", None):
                return await self.say(request, raw)
            pad = "x" * self.script("chunk_bytes", 0)
            words = [f"{name} "] + [f"w{i}{pad} " for i in range(self.script("chunks", 3) - 1)]
            self.note(request, body)
            if refusal := self.refusal(body):
                return refusal
            if self.asked_for("core_dies_of", body):
                return await self.core_dies(request, body, kind)
            if body.get("stream"):
                return await self.pour(request, *self.events(kind, body, words))
            for _ in words:
                await asyncio.sleep(self.script("chunk_delay_s", 0))
            return web.json_response(WHOLE[kind](body, words))
        finally:
            self.running -= 1

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if reason := fake_answers.no_grammar(body):
            return _error(400, f"Grammar error: {reason}")
        told = self.script("refuse", None)
        return _error(told["status"], told["message"]) if told else None

    def asked_for(self, fault: str, body: dict[str, Any]) -> bool:
        text = self.script(fault, None)
        return text is not None and text in json.dumps(body, ensure_ascii=False)

    async def core_dies(self, request: web.Request, body: dict[str, Any], kind: str) -> web.StreamResponse:
        """As vLLM when the process that generates is gone: it says so, ends a stream as if nothing were, and goes."""
        error = {
            "error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "code": 500}
        }
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGKILL)
        if not body.get("stream"):
            return web.json_response(error, status=500)
        events, _ = self.events(kind, body, ["w0 ", "w1 "])
        told = b"event: error\n" if kind == "/v1/messages" else b""
        return await self.pour(request, [*events, told + b"data: " + json.dumps(error).encode() + b"\n\n"], b"data: [DONE]\n\n")

    def events(self, kind: str, body: dict[str, Any], words: list[str]) -> tuple[Iterable[bytes], bytes]:
        """A stream, and what it ends with."""
        if kind == "/v1/responses":
            return fake_apis.response_events(body, words), fake_apis.response_end(body, words)
        if kind == "/v1/messages":
            return fake_apis.message_events(body, words), fake_apis.message_end(body, words)
        kind = "chat.completion.chunk" if kind == "chat.completion" else kind
        each = self.script("tokens_per_event", 1)
        return fake_answers.chunks(body, words, kind, each), fake_answers.last(body, words, kind, each)

    async def other(self, request: web.Request) -> web.StreamResponse:
        """An endpoint that only some kinds of engines have."""
        path = request.path
        if self.task != {"/v1/embeddings": "embedding", "/rerank": "rerank"}.get(
            path, self.task if "tokenize" in path else "chat"
        ):
            return _error(501, "The model does not support this API")
        return await self.answer(request, await request.json(), path)

    async def pour(self, request: web.Request, events: Iterable[bytes], end: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await asyncio.sleep(self.script("prefill_s", 0))
        for number, event in enumerate(events, start=1):
            await response.write(event)
            if number == self.script("die_after_chunks", 0):
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(self.script("chunk_delay_s", 0))
        await response.write(end)
        return response

    async def say(self, request: web.Request, raw: dict[str, Any]) -> web.StreamResponse:
        """What no HTTP server would say."""
        assert request.transport is not None
        for _ in range(raw.get("times", 1)):
            request.transport.write(raw["text"].encode("latin-1"))
            await asyncio.sleep(0)
        if raw.get("then") == "hang":
            await asyncio.sleep(3600)
        await asyncio.sleep(0.05)
        request.transport.close()
        return web.Response()

    def note(self, request: web.Request, body: dict[str, Any]) -> None:
        """What the gateway sent last, for tests to look at."""
        if "x-request-id" in request.headers:  # the gateway's; the supervisor asks for signs of life without
            fields = body.keys() & (FIELDS - {"documents"} if request.path == "/rerank" else FIELDS)
            headers = {name.lower() for name in request.headers} - HEADERS
            self.trip(*(f"field {name}" for name in fields), *(f"header {name}" for name in headers))
        told = {
            "path": request.path, "request_id": request.headers.get("x-request-id"), "traceparent": request.headers.get("traceparent"),
            "body": body,
        }  # fmt: skip
        self.socket.with_suffix(".asked").write_text(json.dumps(told))

    async def metrics(self, _: web.Request) -> web.Response:
        told = [
            ("gauge", "num_requests_running", self.running), ("gauge", "num_requests_waiting", 0), ("gauge", "kv_cache_usage_perc", 0.25),
            ("counter", "generation_tokens_total", self.made), ("counter", "prefix_cache_queries_total", self.made + 1),
            ("counter", "prefix_cache_hits_total", self.made), ("gauge", "lora_requests_info", 1),
        ]  # fmt: skip
        lines = (
            f'# TYPE vllm:{name} {kind}\nvllm:{name}{{engine="0",model_name="{self.base}"}} {value}\n'
            for kind, name, value in told
        )
        return web.Response(text="".join(lines))

    def weigh(self, awake: bool) -> None:
        """Tell what the GPU would: how much of it this engine takes."""
        taken = self.script("weights_bytes", 0) if awake or self.script("sleep_frees_nothing", False) else 0
        self.socket.with_suffix(".memory").write_text(str(taken))

    async def sleep(self, request: web.Request) -> web.Response:
        self.note_nap(request)
        if request.query["level"] == "2":
            self.lost = True
        self.weigh(awake=False)
        return web.json_response({"status": "sleeping"})

    async def wake_up(self, request: web.Request) -> web.Response:
        self.note_nap(request)
        self.weigh(awake=True)
        return web.json_response({"status": "awake"})

    async def reload_weights(self, request: web.Request) -> web.Response:
        self.note_nap(request)
        assert await request.json() == {"method": "reload_weights"}
        self.lost = False
        return web.Response()

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        self.note_nap(request)
        return web.json_response({"success": True})

    def note_nap(self, request: web.Request) -> None:
        with (self.socket.parent / "naps.txt").open("a") as file:
            file.write(f"{self.base} {request.path_qs}\n")

    async def tripped(self, request: web.Request) -> web.Response:
        self.trip(request.path)
        return web.Response(text="tripped")

    def trip(self, *wires: str) -> None:
        if wires:
            with (self.socket.parent / "tripped.txt").open("a") as file:
                file.writelines(f"{wire}\n" for wire in wires)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "x", "param": None, "code": status}}, status=status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--convert", choices=["embed", "classify"])
    options, _ = parser.parse_known_args()
    task = {"embed": "embedding", "classify": "rerank"}.get(options.convert, "chat")
    fake = Fake(options.served_model_name, options.uds, task)
    if fake.script("refuse_start", None) in (True, fake.base):
        sys.exit("fake: out of memory while loading")
    if fake.script("ignore_sigterm", False):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(fake.script("start_delay_s", 0))
    app = web.Application()
    app.add_routes([
        web.get("/health", fake.health), web.get("/v1/models", fake.models), web.get("/metrics", fake.metrics),
        web.post("/v1/load_lora_adapter", fake.load), web.post("/v1/unload_lora_adapter", fake.unload),
        web.post("/v1/completions", fake.completions), web.post("/v1/chat/completions", fake.chat),
        *(web.post(path, fake.other) for path in WHOLE if path.startswith("/")),
        *(web.route("*", path, fake.tripped) for path in sorted(engine_routes.UNUSED)),
    ])  # fmt: skip
    if options.enable_sleep_mode:
        assert os.environ["VLLM_SERVER_DEV_MODE"] == "1"
        fake.weigh(awake=True)
        app.add_routes([
            web.post("/sleep", fake.sleep), web.post("/wake_up", fake.wake_up), web.post("/collective_rpc", fake.reload_weights),
            web.post("/reset_prefix_cache", fake.reset_prefix_cache),
        ])  # fmt: skip
    else:
        app.add_routes([web.route("*", path, fake.tripped) for path in SLEEP])
    web.run_app(
        app, path=str(options.uds), print=None, handle_signals=not fake.script("ignore_sigterm", False), handler_cancellation=True
    )


if __name__ == "__main__":
    main()
