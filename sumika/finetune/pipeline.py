"""A job from its YAML to a judged version in the registry, step by step."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console

from sumika.finetune.chat import ChatFormat, Rendered
from sumika.finetune.config import Base, JobConfig
from sumika.finetune.data import records, reports
from sumika.finetune.data.prepare import Prepared, prepare
from sumika.models import adapter_rules, audit, canary, importing, registry
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.registry import Gate, Version
from sumika.models.store import Store

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class Looked:
    """A job's data, read and rendered for its base; `data.problems` may still hold what stops it."""

    base: Version
    folder: Path
    chat: ChatFormat
    data: Prepared


@dataclass(frozen=True, slots=True)
class Checked:
    """A job that may start: its base, and its rows as the model will see them."""

    base: Version
    folder: Path
    chat: ChatFormat
    data: Prepared
    rendered: list[Rendered]

    def figures(self) -> dict[str, Any]:
        tokens = self.data.report.tokens()
        return {
            "base": str(self.base.ref),
            "rows": len(self.rendered),
            "held_out": len(self.data.held_out),
            "longest_row_tokens": tokens["longest"],
            "median_row_tokens": tokens["median"],
            "tokens": sum(row.length for row in self.rendered),
            "trained_tokens": sum(row.trained for row in self.rendered),
        }


def look(config: JobConfig, store: Store, home: Home) -> Looked:
    """Read the data as the base will see it, and leave what is wrong with it in `data.problems`.

    Raises:
        SumikaError: `not_found`, `wrong_kind`, `no_template`, `no_stop_token`.
    """
    base = _base(config.base.version, store)
    folder = home.artifacts / base.folder
    chat = ChatFormat.of(folder)
    limit = config.data.max_length or base.meta.get("serve", {}).get("max_model_len")
    data = prepare(
        config.data, config.evaluate.held_out, chat, job=config.job.name, base=str(base.ref), limit=limit, seed=config.job.seed
    )
    return Looked(base, folder, chat, data)


def check(config: JobConfig, store: Store, home: Home) -> Checked:
    """Everything that can be known to fail without loading weights, in seconds.

    Raises:
        SumikaError: `not_found`, `wrong_kind`, `bad_target`, `bad_data`, `no_template`, `no_stop_token`.
    """
    _check_alias(config.serve.alias, store)
    base = _base(config.base.version, store)
    _check_targets(config.lora.target_modules, home.artifacts / base.folder)
    looked = look(config, store, home)
    looked.data.problems.stop()
    return Checked(looked.base, looked.folder, looked.chat, looked.data, looked.data.rows())


def run(config: JobConfig, store: Store, home: Home, console: Console) -> Version:
    """Check, train, judge and register; the new version, with its gate passed or refused.

    Raises:
        SumikaError: as `check`; `bad_adapter`, should vLLM not take the result.
    """
    with audit.told(store, Action.FINETUNE_RUN, config.job.name) as told:
        version = _run(config, store, home, console)
        told |= {"version": str(version.ref), "base": str(version.base), "gate": version.gate}
        return version


def _run(config: JobConfig, store: Store, home: Home, console: Console) -> Version:
    checked = check(config, store, home)
    # "the newest" may be another tomorrow: what is kept names the version this run stood on
    config = config.model_copy(update={"base": Base(version=str(checked.base.ref))})
    # torch and its friends take half a minute to load: only a job that may start pays for them.
    with console.status("loading torch and the base model"):
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for torch's CPU buffers; read when torch loads
        from sumika.finetune import base_model, evaluate, reference, train

        model = base_model.load(checked.folder)
    folder = _run_folder(config, home)
    reports.keep(checked.data.report, folder)
    trained = train.train(model, checked.chat, checked.rendered, config, folder, console)
    rows = checked.data.held_out
    with console.status("judging: held-out questions, with the adapter and without"):
        candidate = evaluate.answer(trained.model, checked.chat, rows, config.evaluate.max_new_tokens)
        with trained.model.disable_adapter():
            plain = evaluate.answer(trained.model, checked.chat, rows, config.evaluate.max_new_tokens)
        prompts = reference.make(trained.model, checked.chat, rows, candidate)
    scores = {"candidate": evaluate.Score.of(candidate), "base": evaluate.Score.of(plain)}
    gate = _gate(config, scores["candidate"], scores["base"])
    evaluation = {name: score.as_dict() for name, score in scores.items()} | {"gate": gate}
    _keep(
        folder / "evaluation.json",
        evaluation | {"answers": [asdict(a) for a in candidate], "base_answers": [asdict(a) for a in plain]},
    )
    adapter = folder / "adapter"
    _save_adapter(trained.model, adapter, checked.base.ref)
    canary.save(adapter, prompts)
    records.write(adapter, checked.data.marks)
    training = _lineage(config, checked) | {
        "run": folder.name, "steps": trained.steps, "seconds": round(trained.seconds, 1),
        "trained_tokens": trained.trained_tokens, "first_loss": trained.losses[0], "last_loss": trained.losses[-1],
    }  # fmt: skip
    return importing.import_adapter(
        store, home, config.serve.alias, adapter, base=checked.base.ref, max_lora_rank=config.serve.max_lora_rank,
        gate=gate, meta={"training": training, "evaluation": evaluation},
    )  # fmt: skip


def _base(text: str, store: Store) -> Version:
    with store.read() as connection:
        if "@" in text:
            found = registry.get(connection, VersionRef.parse(text))
        else:
            newest = registry.newest(connection, text)
            found = newest if newest is not None else registry.get(connection, VersionRef(text, 1))
    if found.kind != "base":
        raise SumikaError(
            "wrong_kind",
            f"base.version is {found.ref}, an adapter; name the base model it stands on ({found.base}).",
            f"base.version の {found.ref} はアダプターです。ベースモデル({found.base})を指定してください。",
        )
    return found


def _check_alias(alias: str, store: Store) -> None:
    """The adapter will be registered under the alias's name, which must not be a base's."""
    with store.read() as connection:
        holder = registry.newest(connection, alias)
    if holder is not None and holder.kind == "base":
        raise SumikaError(
            "wrong_kind",
            f"serve.alias is '{alias}', which names the base {holder.ref}; give the adapter a name of its own.",
            f"serve.alias の「{alias}」はベースモデル {holder.ref} の名前です。アダプターには別の名前を付けてください。",
        )


def _check_targets(targets: Literal["all-linear"] | list[str], base: Path) -> None:
    """Every named module must be in the base, and one that vLLM takes LoRA weights for."""
    if targets == "all-linear":
        return
    layers = {name.rpartition(".")[2] for name in adapter_rules.base_modules(base) if ".layers." in name}
    if unknown := [target for target in targets if target not in layers]:
        raise SumikaError(
            "bad_target",
            f"lora.target_modules: the base's layers have no '{quoted(unknown[0])}'; they have {', '.join(sorted(layers))}.",
            f"lora.target_modules の「{quoted(unknown[0])}」はベースモデルの層にありません(指定できるもの: {', '.join(sorted(layers))})。",
        )


def _gate(config: JobConfig, candidate: Any, base: Any) -> Gate:
    wanted = config.serve.gate
    better = candidate.right > base.right or not wanted.better_than_base
    return "passed" if better and candidate.share >= wanted.min_facts else "refused"


def _run_folder(config: JobConfig, home: Home) -> Path:
    """A folder of its own for each run, with the configuration it ran with: running that file again is the reproduction."""
    folder = home.runs / f"{config.job.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    folder.mkdir(mode=0o700)
    text = yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True, sort_keys=False)
    (folder / "config.yaml").write_text(f"# sumika finetune run {folder / 'config.yaml'}\n{text}", encoding="utf-8")
    return folder


def _save_adapter(model: Any, target: Path, base: VersionRef) -> None:
    """Weights and configuration alone: a template, tokenizer or token beside an adapter has no effect in vLLM."""
    model.save_pretrained(target)
    for path in target.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    path = target / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = str(base)  # not a path of this machine
    _keep(path, config)


def _lineage(config: JobConfig, checked: Checked) -> dict[str, Any]:
    """What made this adapter: enough to make it again, and to find it by a record it saw."""
    return {
        "base": {"version": str(checked.base.ref), "digest": checked.base.digest},
        "data": checked.data.report.as_dict() | {"records": records.FILE},
        "template_sha256": checked.chat.template_sha256,
        "stop_ids": list(checked.chat.stop_ids),
        "config": config.model_dump(mode="json"),
        "figures": checked.figures(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }


def _keep(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
