"""What vLLM takes as a LoRA adapter, checked from files alone, before anything is loaded.

The rules are vLLM's own (`vllm/lora/peft_helper.py`, `lora_model.py`); the last one is ours: an adapter whose
tensors fit no module of the base is answered 200 by vLLM and then does nothing.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sumika.models import canary, model_json, tensors
from sumika.models.errors import SumikaError, quoted

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# A trained side of a LoRA has a norm of some tens at most; a training that diverged leaves them orders of magnitude above.
_LARGEST_NORM = 1e5
# The largest of a float32: what it multiplies is not more than that.
_LARGEST_ALPHA = 3.4028234e38
# As PEFT spells a module or the end of one; anything more it would run as a regular expression.
_MODULE = re.compile(r"\^?[\w.-]{1,200}\$?")
_LONGEST_EXPRESSION, _MOST_MODULES = 4_096, 65_536
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")


def check(adapter: Path, base: Path, max_lora_rank: int) -> None:
    """Refuse an adapter that vLLM would refuse, or load and ignore.

    Raises:
        SumikaError: `bad_adapter`, naming everything that is wrong with it at once; `bad_weights`, `broken_artifact`.
    """
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            raise _bad([f"{name} is missing"])
    try:
        config = json.loads((adapter / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise _bad([f"{CONFIG} is not a JSON object"]) from None
    if said := next(model_json.check(adapter), None):
        raise _bad([said[0]])
    _check_reference(adapter)
    ranks = _ranks(config)
    found = [*_config_problems(config, ranks, max_lora_rank), *_tensor_problems(adapter / WEIGHTS, base, ranks)]
    if found:
        raise _bad(found)


def _check_reference(adapter: Path) -> None:
    try:
        canary.load(adapter)
    except SumikaError:
        raise _bad([
            f"its {canary.REFERENCE} is no reference: every prompt needs prompt_ids, answer_ids, and under adapter and base a "
            "log-probability for each of answer_ids. Correct it, or leave the file out and one is made"
        ]) from None  # fmt: skip


def _ranks(config: dict[str, Any]) -> list[Any]:
    pattern = config.get("rank_pattern") or {}
    return [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]


def _config_problems(config: dict[str, Any], ranks: list[Any], max_lora_rank: int) -> list[str]:
    found = []
    if config.get("peft_type") != "LORA":
        found.append(f"peft_type is {_shown(config.get('peft_type'))}, not 'LORA'")
    if not all(type(rank) is int and 0 < rank < 2**31 for rank in ranks):
        found.append(f"its ranks {_shown(ranks)} are not positive whole numbers")
    elif max(ranks) > max_lora_rank:
        found.append(f"its rank {max(ranks)} is above the engine's max_lora_rank {max_lora_rank}")
    if not _is_alpha(alpha := config.get("lora_alpha")):
        found.append(f"lora_alpha is {_shown(alpha)}, not a number above 0")
    found += _module_problems(config)
    for key, allowed in (("bias", ("none", None)), ("use_dora", (False, None)), ("lora_bias", (False, None)),
                         ("layer_replication", (None,)), ("modules_to_save", (None, [])), ("alora_invocation_tokens", (None,))):  # fmt: skip
        if config.get(key) not in allowed:
            found.append(f"{key} is {_shown(config[key])}, which vLLM does not serve")
    if config.get("init_lora_weights", True) not in _PLAIN_INITS:
        found.append(f"init_lora_weights is {_shown(config['init_lora_weights'])}, which changes the base's weights")
    return found


def _module_problems(config: dict[str, Any]) -> Iterator[str]:
    """Of what says where the adapter goes in: names, or one regular expression that is bounded where it is run."""
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        if not _names_modules(value := config.get(key), expression=key != "layers_pattern"):
            yield f"{key} is {_shown(value)}, not a list of modules' names"
    for key in ("rank_pattern", "alpha_pattern"):
        value = config.get(key) or {}
        if not isinstance(value, dict) or not all(_is_module(name) and _is_alpha(number) for name, number in value.items()):
            yield f"{key} is {_shown(value)}, not modules' names with numbers above 0"
    layers = config.get("layers_to_transform")
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if not all(type(layer) is int and 0 <= layer < 2**16 for layer in numbers):
        yield f"layers_to_transform is {_shown(layers)}, not a list of layers' numbers"
    for key in ("use_rslora", "fan_in_fan_out"):
        if config.get(key) is not None and type(config[key]) is not bool:
            yield f"{key} is {_shown(config[key])}, neither true nor false"


def _names_modules(value: Any, *, expression: bool) -> bool:
    if isinstance(value, list):
        return len(value) <= _MOST_MODULES and all(_is_module(name) for name in value)
    if isinstance(value, str):
        return len(value) <= _LONGEST_EXPRESSION if expression else _is_module(value)
    return value is None


def _is_module(name: object) -> bool:
    return isinstance(name, str) and _MODULE.fullmatch(name) is not None


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _LARGEST_ALPHA


def _tensor_problems(weights: Path, base: Path, ranks: list[Any]) -> list[str]:
    modules = base_modules(base)
    found, known = [], 0
    told: defaultdict[str, dict[str, int]] = defaultdict(dict)
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
        else:
            told[match["module"]][match["side"]] = tensor.shape[0 if match["side"] == "A" else -1]
    found += _rank_problems(told, ranks)
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
    elif exploded := [(name, norm) for name, norm in tensors.norms(weights) if norm > _LARGEST_NORM]:
        name, norm = exploded[0]
        found.append(f"{len(exploded)} tensors are too large to be trained weights (first: {name}, norm {norm:.1e})")
    return found


def _rank_problems(told: dict[str, dict[str, int]], ranks: list[Any]) -> Iterator[str]:
    """vLLM believes the config and copies the tensors into buffers of that rank in the middle of serving."""
    for module, sides in told.items():
        if missing := {"A", "B"} - sides.keys():
            yield f"{module} has no lora_{missing.pop()}"
        elif sides["A"] != sides["B"] or sides["A"] not in ranks:
            yield f"{module} has tensors of rank {sides['A']} and {sides['B']}; {CONFIG} says {_shown(ranks)}"


def base_modules(base: Path) -> dict[str, tuple[int, ...]]:
    """Every weight matrix of a base: module name → shape [out, in]."""
    return {
        tensor.name.removesuffix(".weight"): tensor.shape
        for file in sorted(base.glob("*.safetensors"))
        for tensor in tensors.list_tensors(file)
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2
    }


def _shown(value: object) -> str:
    # repr of an integer of more than 4,300 digits raises
    return quoted(json.dumps(value)[:500]) if type(value) is not int or abs(value) < 2**64 else "too large a number"


def _bad(problems: list[str]) -> SumikaError:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    return SumikaError(
        "bad_adapter",
        f"The adapter can't be served: {shown}.",
        f"このアダプターは配備できません: {shown}。",
    )
