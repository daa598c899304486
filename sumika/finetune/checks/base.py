"""The base a job stands on: is it there, does it chat, does it stop, and will vLLM take an adapter for it?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sumika.finetune.chat import ChatFormat
from sumika.finetune.checks.findings import Findings
from sumika.finetune.config import JobConfig
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Conversation
from sumika.finetune.data.report import Said
from sumika.finetune.shape import Shape
from sumika.models import catalog, registry, yamlfile
from sumika.models.errors import SumikaError, quoted
from sumika.models.names import VersionRef
from sumika.models.principals import Principal
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.models.store import Store
from sumika.models.tree import shipped

# What transformers calls a model that writes text. Others embed, rank or classify.
_WRITES = re.compile(r"For(?:CausalLM|ConditionalGeneration)$|LMHeadModel$")
_PROBE = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]


def find(config: JobConfig, store: Store, findings: Findings, seen_by: Principal | None = None) -> Version | None:
    """The version that base.version names, where it is a base. `seen_by`: what is not this one's to see is not there; None: the
    operator, who sees all."""
    text = config.base.version
    try:
        with store.read() as connection:
            newest = None if "@" in text else registry.newest(connection, text, seen_by)
            ref = newest.ref if newest else VersionRef.parse(text) if "@" in text else VersionRef(text, 1)
            found = registry.get(connection, ref) if seen_by is None else registry.seen(connection, seen_by, ref)
    except SumikaError as error:
        findings.add("base.version", error.en, error.ja)
        return None
    if found.kind != "base":
        findings.add(
            "base.version",
            f"{found.ref} is an adapter; name the base model it stands on ({found.base})",
            f"{found.ref} はアダプターです。ベースモデル({found.base})を指定してください",
        )
        return None
    return found


def check_alias(config: JobConfig, store: Store, findings: Findings) -> None:
    """The adapter will be registered under the alias's name, which must not be a base's."""
    with store.read() as connection:
        holder = registry.newest(connection, config.serve.alias)
    if holder is not None and holder.kind == "base":
        findings.add(
            "serve.alias",
            f"'{config.serve.alias}' names the base {holder.ref}; give the adapter a name of its own",
            f"「{config.serve.alias}」はベースモデル {holder.ref} の名前です。アダプターには別の名前を付けてください",
        )


def check_rank(config: JobConfig, engine: EngineSettings, findings: Findings) -> None:
    if config.serve.max_lora_rank > engine.max_lora_rank:
        findings.add(
            "serve.max_lora_rank",
            f"is {config.serve.max_lora_rank}, but the engines here take {engine.max_lora_rank}; lower it and lora.r, or raise "
            "engine.max_lora_rank in sumika.yaml and start again",
            f"が {config.serve.max_lora_rank} ですが、このマシンのエンジンの上限は {engine.max_lora_rank} です。lora.r とともに下げるか、"
            "sumika.yaml の engine.max_lora_rank を上げて再起動してください",
        )


def check_catalog(base: Version, findings: Findings) -> None:
    """What somebody found out about this base and vLLM, where its entry is at hand."""
    file = shipped(catalog.FOLDER) / f"{base.meta.get('catalog')}.yaml"
    if not file.is_file():
        return
    entry = yamlfile.load(catalog.CatalogEntry, file)
    if entry.lora_targets is None:
        findings.add(
            "base.version",
            f"takes no LoRA, as its catalog entry {entry.id} says; choose a base that does ('sumika models catalog')",
            f"はカタログ({entry.id})によるとLoRAに対応していません。対応するベースモデルを選んでください('sumika models catalog')",
        )


def read_shape(folder: Path, findings: Findings) -> Shape | None:
    """Its sizes; a finding where its files are not as they were imported."""
    try:
        return Shape.of(folder)
    except SumikaError as error:
        findings.add("base.version", error.en, error.ja)
    except (OSError, ValueError) as error:
        said = quoted(f"{type(error).__name__}: {getattr(error, 'strerror', error)}")
        findings.add(
            "base.version",
            f"its files can't be read ({said}); import the base again ('sumika models verify' tells what is missing)",
            f"のファイルを読めません({said})。取り込み直してください('sumika models verify' で確認できます)",
        )
    return None


def check_model(folder: Path, findings: Findings) -> None:
    """That it writes text, and that its weights are as PEFT wants them."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    kinds = [str(kind) for kind in config.get("architectures", [])]
    if not any(_WRITES.search(kind) for kind in kinds) or (folder / "modules.json").exists():
        shown = quoted(", ".join(kinds))
        findings.add(
            "base.version",
            f"is a {shown}, which embeds or ranks and writes no answers; choose a chat model ('sumika models catalog')",
            f"は {shown} で、埋め込みや順位付け用のため文章を書きません。チャットモデルを選んでください('sumika models catalog')",
        )
    if (quantised := config.get("quantization_config")) is not None:
        method = quoted(str(quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised))
        findings.add(
            "base.version",
            f"has quantised weights ({method}), which LoRA can't be trained on here; import the bf16 original, and set "
            "base.quantize: nf4 where memory is short",
            f"の重みは量子化済み({method})で、ここでは学習できません。bf16の元のモデルを取り込み、メモリーが足りなければ base.quantize: nf4 にしてください",
        )


def check_targets(config: JobConfig, shape: Shape, findings: Findings) -> None:
    """Every named module must be in the base's layers, which is also where vLLM takes LoRA weights."""
    targets = config.lora.target_modules
    if targets == "all-linear":
        return
    known = shape.kinds()
    for number, target in enumerate(targets):
        if target not in known:
            findings.add(
                f"lora.target_modules.{number}",
                f"the base's layers have no '{quoted(target)}'; they have {', '.join(known)}",
                f"「{quoted(target)}」はベースモデルの層にありません(指定できるもの: {', '.join(known)})",
            )


def chat_format(config: JobConfig, folder: Path, findings: Findings) -> ChatFormat | None:
    """The base's template with the job's `chat` keys, tried on one exchange: better one word here than one a row."""
    try:
        chat = ChatFormat.of(folder, system=config.chat.system, train_on=config.chat.train_on)
    except SumikaError as error:
        findings.add("base.version", error.en, error.ja)
        return None
    except Exception as error:  # the tokenizers library raises nothing narrower
        said = quoted(f"{type(error).__name__}: {error}")
        findings.add(
            "base.version",
            f"its tokenizer can't be read ({said}); import the base again",
            f"トークナイザーを読めません({said})。取り込み直してください",
        )
        return None
    for key, problem in _tried(chat):
        findings.add(key, problem.en, problem.ja)
    return chat


def _tried(chat: ChatFormat) -> Iterator[tuple[str, DataError]]:
    plain = ChatFormat(chat.tokenizer, chat.stop_ids, chat.template_sha256)
    for key, one in (("base.version", plain), ("chat.system", chat)):
        try:
            one.render_conversation(Conversation(_PROBE))
        except DataError as error:
            yield key, error
            return


def warnings(base: Version) -> Iterator[Said]:
    """The licence, where it does not simply allow a company to serve what is trained."""
    licence = base.meta.get("licence") or {}
    if licence.get("tier") in ("C", "D"):
        name, note = quoted(str(licence.get("id", "unknown"))), quoted(str(licence.get("note", "")))
        yield Said(
            f"{base.ref} is licensed {name}, which does not allow commercial use{' without a contract with its maker' if licence['tier'] == 'C' else ''}, "
            f"and an adapter on it inherits that. {note}".strip(),
            f"{base.ref} のライセンス({name})は{'開発元との契約なしには' if licence['tier'] == 'C' else ''}商用利用を認めておらず、"
            f"アダプターもこれを引き継ぎます。{note}",
        )
