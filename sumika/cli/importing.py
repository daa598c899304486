"""Bring a model in from a local disk: tell what lies there apart, and wire the making of an adapter's reference in."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sumika.cli import output
from sumika.models import adapter_rules, archive, artifacts, importing
from sumika.models.errors import SumikaError
from sumika.models.importing import MakeReference
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store


def bring_in(
    settings: Settings, store: Store, name: str, path: Path, base: str | None, *, with_reference: bool,
    progress: artifacts.Progress | None = None,
) -> Version:  # fmt: skip
    """The version made of `path`: an archive, an adapter's or a base's folder, or a GGUF file. `progress` in place of a bar.

    Raises:
        SumikaError: what `importing`, `convert` and `finetune.imported` raise; `bad_lineage`.
    """
    home, rank = settings.layout, settings.engine.max_lora_rank
    meta: dict[str, Any] = {"imported": {"path": path.resolve().name}}  # its name alone: a whole path says who works where
    with ExitStack() as bar:
        told = progress or bar.enter_context(output.copy_progress(f"importing {name}", f"{name} を取り込み中"))
        if path.suffix == archive.SUFFIX:
            return _from_archive(settings, store, name, path, base, told)
        if (path / adapter_rules.CONFIG).is_file():
            made = _reference_maker(name, bar) if with_reference else None
            return importing.import_adapter(
                store, home, name, path, base=_base_of(name, base), max_lora_rank=rank, meta=meta, progress=told, reference=made
            )
        if path.suffix == ".gguf":
            return _from_gguf(settings, store, name, path, meta)
        return importing.import_base(store, home, name, path, meta=meta, progress=told)


def _reference_maker(name: str, bar: ExitStack) -> MakeReference:
    def make(adapter: Path, base: Path) -> None:
        bar.close()  # the files are copied; its place is wanted
        with output.waiting(
            "making its reference: a few answers with the adapter and without", "検証用の応答を作成中(アダプターあり・なし)"
        ):
            # torch takes its time to load: only an adapter without a reference pays for it
            from sumika.finetune import imported

            try:
                imported.write(adapter, base)
                return
            except imported.NoReference as error:
                why = error
        output.warn(
            f"{name} is imported unproven, without a reference: {why.en}.", f"{name} は未検証のまま取り込みます。{why.ja}。"
        )

    return make


def _base_of(name: str, base: str | None) -> VersionRef:
    if base is None:
        raise SumikaError(
            "bad_lineage",
            f"{name} is a LoRA adapter; name the base it was trained on with --base NAME@N.",
            f"{name} はLoRAアダプターです。学習元のベースモデルを --base NAME@N で指定してください。",
        )
    return VersionRef.parse(base)


def _from_archive(
    settings: Settings, store: Store, name: str, path: Path, base: str | None, progress: artifacts.Progress
) -> Version:
    if base is not None:
        raise SumikaError(
            "bad_lineage",
            "An archive says itself which base it belongs to. Leave --base out.",
            "アーカイブにはベースモデルが記録されています。--base は指定しないでください。",
        )
    rank = settings.engine.max_lora_rank
    return importing.import_archive(store, settings.layout, name, path, max_lora_rank=rank, progress=progress)


def _from_gguf(settings: Settings, store: Store, name: str, path: Path, meta: dict[str, Any]) -> Version:
    from sumika.finetune import convert

    if not path.is_file():
        raise SumikaError("bad_source", f"There is no file {path}.", f"ファイル {path} がありません。")
    with tempfile.TemporaryDirectory(dir=settings.layout.root, prefix=".gguf-") as scratch:
        folder = Path(scratch) / "model"
        convert.from_gguf(path.resolve(), folder)
        return importing.import_base(store, settings.layout, name, folder, meta=meta)
