"""The supervisor's words to one vLLM engine, over its Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from sumika.models import adapter_rules
from sumika.models.canary import CanaryPrompt
from sumika.models.errors import SumikaError
from sumika.models.tasks import Task
from sumika.serving import engine_routes

_SHORT = aiohttp.ClientTimeout(total=5)
_LONG = aiohttp.ClientTimeout(total=120)
_PROGRESS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total_count")
_WARM_UP = aiohttp.ClientTimeout(total=600)


class EngineClient:
    """One engine's own server. Every method raises SumikaError `engine_unreachable` when it does not answer."""

    def __init__(self, socket: str, task: Task = "chat") -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket))
        self._task = task

    async def close(self) -> None:
        await self._session.close()

    async def healthy(self) -> bool:
        try:
            status, _ = await self._call("GET", "/health", None, _SHORT)
        except SumikaError:
            return False
        return status == 200

    async def warm_up(self, model: str) -> None:
        """One real token, log-probabilities too, or one real vector or score: the first request of a fresh engine compiles
        and can take half a minute, and an engine whose server answers may still be unable to generate."""
        path, payload = self._smallest(model)
        if self._task == "chat":
            payload |= {"prompt_logprobs": 0}
        status, body = await self._call("POST", path, payload, _WARM_UP)
        if status != 200:
            raise SumikaError(
                "engine_failed",
                f"The engine started but can't generate: {_reason(body)}",
                f"エンジンは起動しましたが、生成できません: {_reason(body)}",
                status=503,
                retry_after=30,
            )

    async def generates(self, model: str, patience_s: float) -> bool:
        """Whether one token, vector or score comes within `patience_s`."""
        path, payload = self._smallest(model)
        try:
            status, _ = await self._call("POST", path, payload, aiohttp.ClientTimeout(total=patience_s))
        except SumikaError:
            return False
        return status == 200

    def _smallest(self, model: str) -> tuple[str, dict[str, Any]]:
        """The least that this engine can be asked for."""
        if self._task == "embedding":
            return "/v1/embeddings", {"model": model, "input": [1, 2, 3]}
        if self._task == "rerank":
            return "/rerank", {"model": model, "query": "a", "documents": ["b"]}
        return "/v1/completions", {"model": model, "prompt": [1, 2, 3], "max_tokens": 1, "temperature": 0}

    async def progress(self) -> float:
        """A number that grows with every step the engine makes: its own counters of tokens and iterations."""
        _, text = await self._call("GET", "/metrics", None, _SHORT)
        lines = (line for line in str(text).splitlines() if line.startswith(_PROGRESS))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def sleep(self, level: int) -> None:
        """Give GPU memory back: 1 keeps the weights in main memory, 2 keeps nothing. Needs vLLM's dev mode.

        Raises:
            SumikaError: `sleep_failed`. That it answered well proves nothing: measure.
        """
        await self._nap("POST", f"/sleep?level={level}&mode=wait")

    async def wake(self, level: int) -> None:
        """Take the memory back, and after level 2 read the weights anew.

        Raises:
            SumikaError: `sleep_failed`.
        """
        await self._nap("POST", "/wake_up")
        if level == 2:
            await self._nap("POST", "/collective_rpc", {"method": "reload_weights"})
            await self._nap("POST", "/reset_prefix_cache")

    async def _nap(self, method: str, path: str, payload: object = None) -> None:
        status, body = await self._call(method, path, payload, _WARM_UP)
        if status != 200:
            raise SumikaError(
                "sleep_failed",
                f"The engine failed on {path}: {_reason(body)}",
                f"エンジンの {path} が失敗しました: {_reason(body)}",
                status=503,
                retry_after=30,
            )

    async def adapters(self) -> set[str]:
        """The LoRA names the engine holds and can answer as: its list of models less the base, and less those whose
        files are gone. vLLM forgets an adapter that was long not asked for and reads it from disk at its next request,
        in the middle of a step; where it can't, the whole engine ends."""
        _, body = await self._call("GET", "/v1/models", None, _SHORT)
        return {model["id"] for model in body["data"] if model.get("parent") and readable(Path(model["root"]))}

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Raises SumikaError `adapter_refused` with vLLM's own reason, or because files are gone. Loading a name twice is no error."""
        if not readable(folder):
            raise gone(name, folder)
        # A relative path that does not exist would be taken for a hub name.
        payload = {"lora_name": name, "lora_path": str(folder.resolve())}
        status, body = await self._call("POST", "/v1/load_lora_adapter", payload, _LONG)
        if status != 200 and "already" not in _reason(body):
            raise SumikaError(
                "adapter_refused",
                f"vLLM refused to load {name}: {_reason(body)}",
                f"vLLMが {name} を読み込めませんでした: {_reason(body)}",
                status=409,
            )

    async def unload_adapter(self, name: str) -> None:
        """Unloading a name that is not there is no error."""
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _LONG)

    async def log_probabilities(self, model: str, prompts: list[CanaryPrompt]) -> list[list[float]]:
        """What `model` thinks (nats) of each token of each prompt's answer."""
        return list(await asyncio.gather(*(self._answer_log_probabilities(model, prompt) for prompt in prompts)))

    async def _answer_log_probabilities(self, model: str, prompt: CanaryPrompt) -> list[float]:
        ids = prompt.prompt_ids + prompt.answer_ids
        payload = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        status, body = await self._call("POST", "/v1/completions", payload, _LONG)
        if status != 200:
            raise SumikaError(
                "canary_failed",
                f"The engine could not answer the canary prompt for {model}: {_reason(body)}",
                f"{model} の確認用プロンプトにエンジンが応答できませんでした: {_reason(body)}",
                status=409,
            )
        try:
            told = body["choices"][0]["prompt_logprobs"][len(prompt.prompt_ids) :]
            return [float(at[str(token)]["logprob"]) for at, token in zip(told, prompt.answer_ids, strict=True)]
        except (LookupError, TypeError, ValueError) as error:
            raise SumikaError(
                "canary_failed",
                f"The engine gave no log-probabilities for {model}'s canary prompt ({type(error).__name__}). Train or import it again.",
                f"{model} の確認用プロンプトに対する対数確率をエンジンが返しませんでした({type(error).__name__})。学習または取り込みをやり直してください。",
                status=409,
            ) from error

    async def _call(self, method: str, path: str, payload: object, timeout: aiohttp.ClientTimeout) -> tuple[int, Any]:
        try:
            async with self._session.request(
                method, engine_routes.url("supervisor", method, path), json=payload, timeout=timeout
            ) as response:
                is_json = response.content_type == "application/json"
                return response.status, await (response.json() if is_json else response.text())
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise SumikaError(
                "engine_unreachable",
                f"The engine does not answer on {path} ({type(error).__name__}). It is restarted if it died; see 'sumika status'.",
                f"エンジンが {path} に応答しません({type(error).__name__})。停止した場合は自動で再起動します(sumika status で確認)。",
                status=503,
                retry_after=10,
            ) from error


def gone(name: str, folder: Path) -> SumikaError:
    return SumikaError(
        "adapter_refused",
        f"{name} can't be loaded: its files are gone from {folder}. Put them back, or import the adapter again and deploy that.",
        f"{name} を読み込めません。{folder} のファイルがなくなっています。ファイルを戻すか、アダプターを取り込み直して配備してください。",
        status=409,
    )


def readable(folder: Path) -> bool:
    """Whether what vLLM reads of an adapter is there."""
    return (folder / adapter_rules.CONFIG).is_file() and (folder / adapter_rules.WEIGHTS).is_file()


def _reason(body: Any) -> str:
    if isinstance(body, dict):
        error = body.get("error", body)
        return str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return str(body)
