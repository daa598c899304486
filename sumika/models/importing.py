"""Bring a model's files in as a new immutable version, all or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sumika.models import (
    adapter_rules,
    archive,
    artifacts,
    canary,
    controls,
    model_json,
    registry,
    tasks,
    tensors,
    tokenizer_regex,
)  # fmt: skip
from sumika.models.archive_header import Header, bad_archive
from sumika.models.artifacts import Progress, Staged
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home
from sumika.models.manifest import FileEntry
from sumika.models.names import VersionRef, check_name
from sumika.models.registry import Gate, Version
from sumika.models.store import Store

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_INDEX = "model.safetensors.index.json"


MakeReference = Callable[[Path, Path], None]
"""Given an adapter's folder and its base's, writes `canary.json` into the first, or leaves it where none can be made."""


def import_base(
    store: Store, home: Home, name: str, source: Path, *, meta: dict[str, Any] | None = None, progress: Progress | None = None
) -> Version:
    """Copy a base model's folder in and register it; the version there already, if it holds the same files.

    Raises:
        SumikaError: `bad_name`, `bad_source`, `bad_model`, `bad_weights`, `disk_full`, `wrong_kind`.
    """
    check_name(name)
    with artifacts.bringing_in(home.artifacts), _discarded(artifacts.stage(home.artifacts, source, progress)) as staged:
        told = tasks.told_by(source, _check_base(staged.folder)) | controls.told_by(staged.folder)
        return _register(store, home, name, staged, kind="base", meta=told | (meta or {}))


def import_adapter(
    store: Store, home: Home, name: str, source: Path, *, base: VersionRef, max_lora_rank: int, gate: Gate = "none",
    meta: dict[str, Any] | None = None, progress: Progress | None = None, reference: MakeReference | None = None,
    owner: str | None = None,
) -> Version:  # fmt: skip
    """Copy an adapter's folder in, check it against its base and register it.

    One that brings no canary reference gets what `reference` makes; without that it is registered unproven. `owner`: whose it is
    (`Principal.owner`); None: everybody's.

    Raises:
        SumikaError: as `import_base`, and `not_found` for the base, `bad_lineage`, `bad_adapter`; what `reference` raises.
    """
    check_name(name)
    meta = meta or {}
    with store.read() as connection:
        on = registry.get(connection, base)
    if tasks.of(on.meta) != "chat":
        raise SumikaError(
            "bad_lineage",
            f"{base} is no chat model, and only those carry adapters here. Name another base.",
            f"{base} はチャットモデルではないため、アダプターを付けられません。別のベースモデルを指定してください。",
        )
    with artifacts.bringing_in(home.artifacts), _discarded(artifacts.stage(home.artifacts, source, progress)) as staged:
        adapter_rules.check(staged.folder, home.artifacts / on.folder, max_lora_rank)
        if reference is not None and canary.REFERENCE not in staged.files:
            if same := _with_reference_made(store, name, on, staged.digest):
                return same
            reference(staged.folder, home.artifacts / on.folder)
            if canary.load(staged.folder) is not None:
                meta = meta | {"reference_made": {"files": staged.digest}}
                staged = artifacts.add_file(staged, canary.REFERENCE)
        return _register(store, home, name, staged, kind="adapter", base=on, gate=gate, meta=meta, owner=owner)


def import_archive(
    store: Store, home: Home, name: str, file: Path, *, max_lora_rank: int, progress: Progress | None = None
) -> Version:
    """Bring in what another Sumika exported, with its gate and metadata; its files pass the same checks as a folder's.

    Raises:
        SumikaError: as `import_base` and `import_adapter`, and `bad_archive`, `bad_signature`, `untrusted_key`, `missing_base`.
    """
    check_name(name)
    with archive.opened(file, home) as source, artifacts.bringing_in(home.artifacts):
        header = source.header
        base = _base_here(store, header)

        def unpack(folder: Path) -> dict[str, FileEntry]:
            entries = source.extract(folder, progress)
            if {path.name for path in artifacts.list_files(folder)} != set(entries):
                raise bad_archive("it holds files that no model has", "モデルに不要なファイルがあります")
            return entries

        with _discarded(artifacts.stage_with(home.artifacts, header.total, unpack)) as staged:
            if base is None:
                _check_base(staged.folder)
            else:
                adapter_rules.check(staged.folder, home.artifacts / base.folder, max_lora_rank)
            told = controls.told_by(staged.folder) if base is None else {}
            meta = header.meta | told | {"imported": {"key": source.signer, "from": str(header.ref)}}
            return _register(store, home, name, staged, kind=header.kind, base=base, gate=header.gate, meta=meta)


@contextmanager
def _discarded(staged: Staged) -> Iterator[Staged]:
    """Whatever of `staged` has not settled by the end is removed."""
    try:
        yield staged
    finally:
        staged.discard()


def _with_reference_made(store: Store, name: str, base: Version, digest: str) -> Version | None:
    """The version that came in as just these files before and was given its reference here."""
    with store.read() as connection:
        for version in registry.list_all(connection):
            made = version.meta.get("reference_made")
            if (version.ref.name, version.base_id) == (name, base.id) and made == {"files": digest}:
                return version
    return None


def _base_here(store: Store, header: Header) -> Version | None:
    """The base of an archived adapter, by its files whatever its name here; where several hold them, the newest."""
    wanted = header.base
    if wanted is None:
        return None
    with store.read() as connection:
        same = [v for v in registry.list_all(connection) if v.kind == "base" and v.digest == wanted.digest]
    if not same:
        raise SumikaError(
            "missing_base",
            f"{header.ref} is an adapter on {wanted.ref}, and no base here has the same files (digest {wanted.digest[:12]}…). Export {wanted.ref} where the adapter comes from and import it first.",
            f"{header.ref} は {wanted.ref} 用のアダプターですが、同じファイルのベースモデル(digest {wanted.digest[:12]}…)がありません。書き出し元で {wanted.ref} を書き出し、先に取り込んでください。",
            status=409,
        )
    return max(same, key=lambda v: (v.ref == wanted.ref, v.ref.name == wanted.name, v.id))


def _register(store: Store, home: Home, name: str, staged: Staged, **row: Any) -> Version:
    """A crash between the move and the commit leaves a folder that no row names; `artifacts.sweep` removes it."""
    base: Version | None = row.get("base")
    try:
        with store.write() as connection:
            if base is not None:
                registry.get(connection, base.ref)  # it may have been removed since: a reference takes a minute to make
            same = registry.find_digest(connection, name, staged.digest, base)
            if same is not None:
                return same
            version = registry.add(connection, name, folder=staged.home_in(name), digest=staged.digest, **row)
            staged.settle(home.artifacts, name)
            return version
    except BaseException:
        _unsettle(store, home, staged.home_in(name))
        raise


def _unsettle(store: Store, home: Home, folder: str) -> None:
    """Remove the files of a version whose row was not committed; where the store can't say whether it was, the next start does."""
    with suppress(SumikaError), store.read() as connection:
        if folder not in registry.folders(connection):
            shutil.rmtree(home.artifacts / folder, ignore_errors=True)


def _check_base(folder: Path) -> str:
    """The model's architecture, as transformers names it."""
    for problem in model_json.check(folder):
        raise model_json.broken(problem)
    kind = _architecture(_read_json(folder, "config.json"))
    _check_tokenizer(folder)
    _check_weights(folder)
    return kind


def _architecture(config: dict[str, Any]) -> str:
    kinds = config.get("architectures")
    if not isinstance(kinds, list) or not kinds or not isinstance(config.get("model_type"), str):
        raise _bad_model("config.json names no architecture", "config.json に architectures がありません")
    for problem in model_json.sizes(config):
        raise model_json.broken(problem)
    if strange := [kind for kind in kinds if not isinstance(kind, str) or kind not in model_json.architectures()]:
        shown = quoted(json.dumps(strange[0], ensure_ascii=False)[:200])
        raise _bad_model(
            f"config.json names the architecture {shown}, which vLLM here has no code for",
            f"config.json の architectures にある {shown} に、このvLLMは対応していません",
        )
    return str(kinds[0])


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() and (folder / name).stat().st_size for name in _TOKENIZERS):
        raise _bad_model(
            "no tokenizer is there (tokenizer.json or tokenizer.model)", "トークナイザー(tokenizer.json など)がありません"
        )
    for name in ("tokenizer.json", "generation_config.json"):
        if (folder / name).is_file():
            _read_json(folder, name)  # an object, and no empty one of a copy that was cut short
    tokenizer_regex.check(folder)


def _check_weights(folder: Path) -> None:
    weights = {path.name for path in folder.glob("*.safetensors")}
    if (folder / _INDEX).is_file():
        named = _read_json(folder, _INDEX).get("weight_map", {})
        if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
            raise _bad_model(f"{_INDEX} names no weight files", f"{_INDEX} に重みファイルの一覧がありません")
        if missing := sorted(set(named.values()) - weights):
            shown, count = quoted(missing[0]), len(set(named.values()))
            raise _bad_model(f"{shown} is missing ({len(missing)} of {count} weight files)", f"重みファイル {shown} がありません")
    if not weights:
        raise _bad_model("no .safetensors weights are there", ".safetensors 形式の重みがありません")
    for name in sorted(weights):
        tensors.list_tensors(folder / name)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise _bad_model(f"{name} is missing", f"{name} がありません") from None
    except (ValueError, RecursionError):
        raise _bad_model(f"{name} is not JSON", f"{name} がJSONではありません") from None
    if not isinstance(value, dict):
        raise _bad_model(f"{name} is not a JSON object", f"{name} がJSONオブジェクトではありません")
    return value


def _bad_model(en: str, ja: str) -> SumikaError:
    return model_json.broken((en, ja))
