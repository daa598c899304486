"""A job's data and everything that can be known to fail before weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sumika.finetune.batching import Batching, plan
from sumika.finetune.chat import ChatFormat, Rendered, RenderedPair
from sumika.finetune.config import JobConfig
from sumika.finetune.data.prepare import Prepared, prepare
from sumika.finetune.data.record import Conversation, Row
from sumika.models import adapter_rules, registry
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.store import Store


@dataclass(frozen=True, slots=True)
class Looked:
    """A job's data, read and rendered for its base; `data.problems` may still hold what stops it."""

    base: Version
    folder: Path
    chat: ChatFormat
    data: Prepared


@dataclass(frozen=True, slots=True)
class Checked:
    """A job that may start: its base, its rows as the model will see them, and how many of them make a step."""

    base: Version
    folder: Path
    chat: ChatFormat
    data: Prepared
    rows: Sequence[Rendered] | Sequence[RenderedPair]
    suites: Mapping[str, Sequence[Row[Conversation]]]
    batching: Batching

    def figures(self) -> dict[str, Any]:
        tokens = self.data.report.tokens()
        return {
            "base": str(self.base.ref),
            "rows": len(self.rows),
            "held_out": len(self.data.held_out),
            "longest_row_tokens": tokens["longest"],
            "median_row_tokens": tokens["median"],
            "tokens": sum(row.length for row in self.rows),
            "trained_tokens": sum(row.trained for row in self.rows),
        } | asdict(self.batching)


def look(config: JobConfig, store: Store, home: Home) -> Looked:
    """Read the data as the base will see it, and leave what is wrong with it in `data.problems`.

    Raises:
        SumikaError: `not_found`, `wrong_kind`, `no_template`, `no_stop_token`.
    """
    base = _base(config.base.version, store)
    folder = home.artifacts / base.folder
    chat = ChatFormat.of(folder, system=config.chat.system, train_on=config.chat.train_on)
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
    rows = looked.data.pairs() if config.job.method == "dpo" else looked.data.rows()
    suites = {suite.name: looked.data.held_out for suite in config.evaluate.suites}
    return Checked(
        looked.base,
        looked.folder,
        looked.chat,
        looked.data,
        rows,
        suites,
        plan([row.length for row in rows], config.train.batch_tokens),
    )


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
