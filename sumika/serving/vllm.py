"""How vLLM is started: its arguments and its environment, both closed lists."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sumika.models import adapter_rules, tasks
from sumika.models.errors import SumikaError
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.models.tasks import Task
from sumika.serving import lora_slots, machine
from sumika.serving.lora_slots import Slots
from sumika.serving.memory import Device

# What an engine may see of our environment; nothing that could carry a secret.
_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "NVIDIA_VISIBLE_DEVICES",
    "TZ",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",  # a file: what vLLM's exporter trusts, as the gateway's does (docs/monitoring.md)
)
_DEFAULT_CONTEXT = 8_192
# llguidance compiles any schema in milliseconds (docs/performance.md), and without white space between its parts: a small model
# that is free to may write line breaks until its tokens are spent.
_STRUCTURED_OUTPUTS = {"backend": "guidance", "disable_any_whitespace": True}


def device(settings: EngineSettings) -> Device:
    """CUDA where the driver answers, the CPU build where there is none.

    Raises:
        SumikaError: `gpu_silent`, where there is a driver and it does not answer: nobody's GPU server becomes a slow one unseen.
    """
    if settings.device != "auto":
        return settings.device
    found = machine.nvidia()
    if found == "silent":
        raise SumikaError(
            "gpu_silent",
            "This machine has an NVIDIA driver or GPU, and nvidia-smi does not answer. Mend the driver (see 'nvidia-smi', 'dmesg'), or set engine.device: cpu to run without the GPU.",
            "NVIDIAのドライバーまたはGPUがありますが、nvidia-smi が応答しません。ドライバーを修復する(nvidia-smi や dmesg で確認)か、GPUなしで動かす場合は engine.device: cpu を設定してください。",
            status=503,
            retry_after=30,
        )
    return "cuda" if found == "answers" else "cpu"


def arguments(settings: EngineSettings, on: Device, base: Version, folder: Path, socket: str, share: float) -> list[str]:
    """The whole argv of one engine that serves `base` from `folder` on the Unix socket `socket`, with `share` of its
    GPU's memory."""
    serve: dict[str, Any] = base.meta.get("serve", {})
    task = tasks.of(base.meta)
    argv = [
        *settings.command,
        "--model", str(folder),
        "--served-model-name", str(base.ref),
        "--uds", socket,
        "--dtype", str(serve.get("dtype", "auto")),
        "--max-model-len", str(serve.get("max_model_len") or _context(folder)),
        # vLLM's default is 0, which aborts what is running; this lets it end.
        "--shutdown-timeout", str(int(settings.stop_timeout_s)),
        # Cached tokens are told in each answer's usage.
        "--enable-prompt-tokens-details",
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    argv += _generating(settings, on, serve, folder) if task == "chat" else _pooling(task, base.meta)
    if on == "cuda":
        argv += ["--gpu-memory-utilization", f"{share:.4f}"]
        argv += ["--enable-sleep-mode"] * settings.sleep
    if parser := serve.get("reasoning_parser"):
        argv += ["--reasoning-parser", parser]
    if parser := serve.get("tool_call_parser"):
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    return argv


def environment(
    settings: EngineSettings, on: Device, cache: Path, gpu: str, ours: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Offline, no telemetry, what is compiled kept in `cache`, adapters loadable at run time (over the private socket only), and
    only the GPU of this UUID in sight."""
    env = {name: ours[name] for name in _PASSED_ON if name in ours}
    env |= {
        "HOME": str(cache),
        "HF_HOME": str(cache / "huggingface"),
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        # Its grammars of tool calls are xgrammar's own; without them a call that must be made is JSON by schema.
        "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if on == "cpu":
        env |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib)}
    else:
        env["CUDA_VISIBLE_DEVICES"] = gpu
        if settings.sleep:
            # Opens /sleep and /wake_up, and worse ones; they lie behind the socket that only we reach, and the gateway
            # builds every path it sends there itself.
            env["VLLM_SERVER_DEV_MODE"] = "1"
    return env


def _generating(settings: EngineSettings, on: Device, serve: Mapping[str, Any], folder: Path) -> list[str]:
    """Tokens, with adapters."""
    slots = _slots(settings, on, serve, folder)
    return [
        "--structured-outputs-config", json.dumps(_STRUCTURED_OUTPUTS),
        "--enable-lora", "--max-lora-rank", str(settings.max_lora_rank),
        "--max-loras", str(slots.max_loras), "--max-cpu-loras", str(slots.max_cpu_loras),
    ]  # fmt: skip


def _pooling(task: Task, meta: Mapping[str, Any]) -> list[str]:
    """A vector, or a score, in place of tokens. Such bases carry no adapters here."""
    argv = ["--runner", "pooling", "--convert", "classify" if task == "rerank" else "embed"]
    if how := meta.get("pooling"):
        argv += ["--pooler-config", json.dumps({"seq_pooling_type": str(how).upper()})]
    return argv


def _slots(settings: EngineSettings, on: Device, serve: Mapping[str, Any], folder: Path) -> Slots:
    number_bytes = 4 if serve.get("dtype") == "float32" else 2  # vLLM keeps adapters in the base's own dtype
    one = lora_slots.slot_bytes(adapter_rules.base_modules(folder).values(), settings.max_lora_rank, number_bytes)
    seen = machine.look(folder)
    return lora_slots.choose(settings, one, seen.model_memory_bytes if on == "cuda" else seen.memory_bytes, seen.memory_bytes)


def _context(folder: Path) -> int:
    """What the model's own config allows, at most 8,192: longer contexts are asked for in the catalog."""
    config = json.loads((folder / "config.json").read_bytes())
    return min(int(config.get("max_position_embeddings", _DEFAULT_CONTEXT)), _DEFAULT_CONTEXT)
