"""What vLLM takes as a LoRA adapter, checked from files alone, before anything is loaded.

The rules are vLLM's own (`vllm/lora/peft_helper.py`, `lora_model.py`); the last one is ours: an adapter whose
tensors fit no module of the base is answered 200 by vLLM and then does nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sumika.models import tensors
from sumika.models.errors import SumikaError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")


def check(adapter: Path, base: Path, max_lora_rank: int) -> None:
    """Refuse an adapter that vLLM would refuse, or load and ignore.

    Raises:
        SumikaError: `bad_adapter`, naming everything that is wrong with it at once.
    """
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            raise _bad([f"{name} is missing"])
    try:
        config = json.loads((adapter / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError
    except ValueError:
        raise _bad([f"{CONFIG} is not a JSON object"]) from None
    found = [*_config_problems(config, max_lora_rank), *_tensor_problems(adapter / WEIGHTS, base)]
    if found:
        raise _bad(found)


def _config_problems(config: dict[str, Any], max_lora_rank: int) -> list[str]:
    found = []
    if config.get("peft_type") != "LORA":
        found.append(f"peft_type is {config.get('peft_type')!r}, not 'LORA'")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 for rank in ranks):
        found.append(f"its ranks {ranks} are not positive whole numbers")
    elif max(ranks) > max_lora_rank:
        found.append(f"its rank {max(ranks)} is above the engine's max_lora_rank {max_lora_rank}")
    for key, allowed in (("bias", ("none", None)), ("use_dora", (False, None)), ("lora_bias", (False, None)),
                         ("layer_replication", (None,)), ("modules_to_save", (None, [])), ("alora_invocation_tokens", (None,))):  # fmt: skip
        if config.get(key) not in allowed:
            found.append(f"{key} is {config[key]!r}, which vLLM does not serve")
    if config.get("init_lora_weights", True) not in _PLAIN_INITS:
        found.append(f"init_lora_weights is {config['init_lora_weights']!r}, which changes the base's weights")
    return found


def _tensor_problems(weights: Path, base: Path) -> list[str]:
    modules = base_modules(base)
    found, known = [], 0
    listed = tensors.list_tensors(weights)
    for tensor in listed:
        match = _LORA.fullmatch(tensor.name)
        shape = modules.get(match["module"]) if match else None
        if match is None or shape is None:
            continue
        known += 1
        axis = -1 if match["side"] == "A" else 0
        if len(tensor.shape) != 2 or tensor.shape[axis] != shape[axis]:
            found.append(f"{tensor.name} has shape {list(tensor.shape)}, which does not fit the base's {list(shape)}")
    if known < len(listed):
        strange = next(t.name for t in listed if (m := _LORA.fullmatch(t.name)) is None or m["module"] not in modules)
        found.append(
            f"{len(listed) - known} of its {len(listed)} tensors match no module of the base (first: {strange}); "
            "it was made for another base, or its tensors were renamed"
        )
    if not listed:
        found.append("it holds no tensors")
    if broken := list(tensors.non_finite(weights)):
        found.append(f"{len(broken)} tensors hold NaN or infinity (first: {broken[0]})")
    return found


def base_modules(base: Path) -> dict[str, tuple[int, ...]]:
    """Every weight matrix of a base: module name → shape [out, in]."""
    return {
        tensor.name.removesuffix(".weight"): tensor.shape
        for file in sorted(base.glob("*.safetensors"))
        for tensor in tensors.list_tensors(file)
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2
    }


def _bad(problems: list[str]) -> SumikaError:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    return SumikaError(
        "bad_adapter",
        f"The adapter can't be served: {shown}.",
        f"このアダプターは配備できません: {shown}。",
    )
