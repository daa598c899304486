"""A training's own home: a store with the few rows that it needs and links to the files that they name.

What trains never opens the installation's store and never sees its keys. It registers what it made in its own store; the worker
takes that from there, checks it as it checks any import, and registers it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import insert, select

from sumika.finetune import runs
from sumika.models import aliases, importing, orders, registry, schema
from sumika.models.errors import SumikaError
from sumika.models.home import Home, write_atomically
from sumika.models.jobs import Job
from sumika.models.names import VersionRef
from sumika.models.principals import OPERATOR
from sumika.models.registry import Version
from sumika.models.sandbox import View
from sumika.models.sandbox.view import without
from sumika.models.settings import Settings
from sumika.models.shelf import Shelf
from sumika.models.store import Store

_FOLDER = ".private"
_SETTINGS = "sumika.yaml"


class PrivateHome:
    """Made for one attempt of a job, from the installation's `store` and `settings`."""

    def __init__(self, job: Job, store: Store, settings: Settings) -> None:
        self._job, self._store, self._settings = job, store, settings
        self._home = settings.layout
        self._run = self._home.runs / job.run
        self._private = Home(self._run / _FOLDER)
        self._url = f"sqlite:///{self._private.database}"
        order = orders.read(self._run)
        config = _read(self._run / runs.CONFIG)
        # The job's row goes before its file, which an attempt before this one may have written to.
        self._alias: str = job.alias or (order.name if order else config.get("serve", {}).get("alias", job.name))
        self._base = self._find_base(order.model if order else config.get("base", {}).get("version", ""))
        self._files = [order.training_file, *([order.validation_file] if order.validation_file else [])] if order else []
        self._data = list(_data(config, self._home.root))
        mlflow = config.get("track", {}).get("mlflow")
        self._tracking = [server for server in settings.finetune.tracking if server.name == mlflow]
        self._network = bool(mlflow) or config.get("train", {}).get("gpus", 1) != 1

    def make(self) -> View:
        """Lay it out anew, unless an attempt before this one came as far as registering; what the training sees."""
        if self._registered() is None:
            shutil.rmtree(self._private.root, ignore_errors=True)
            for folder in (self._private.root, self._private.artifacts, self._private.files):
                folder.mkdir(mode=0o700)
            self._lay_out()
        finetune = self._settings.finetune.model_copy(update={"tracking": self._tracking, "data_root": None})
        config = {
            "home": str(self._private.root), "engine": self._settings.engine.model_dump(mode="json"),
            "finetune": finetune.model_dump(mode="json"),
        }  # fmt: skip
        write_atomically(self._private.root / _SETTINGS, yaml.safe_dump(config, allow_unicode=True).encode(), mode=0o600)
        temp = self._private.root / "tmp"
        temp.mkdir(mode=0o700, exist_ok=True)
        shelf = Shelf(self._home.files)
        reads = [self._home.artifacts / version.folder for version in self._versions()]
        reads += [*map(shelf.path, self._files), *self._data, Path.cwd() / "configs"]
        reads += [file.expanduser().absolute() for server in self._tracking for file in server.files]
        there = tuple(path for path in reads if path.exists())
        return View(self._home.root, temp, there, (self._run,), network=self._network)

    def environment(self) -> Mapping[str, str]:
        return {"SUMIKA_CONFIG": str(self._private.root / _SETTINGS), "HOME": str(self._private.root)}

    def register(self) -> Version | None:
        """Take what the training registered in its own store into the installation's; None where it did not.

        Raises:
            SumikaError: as `importing.import_adapter`.
        """
        made = self._registered()
        if made is None or self._base is None:
            return None
        known = self._known()
        version = known or importing.import_adapter(
            self._store, self._home, self._alias, self._folder_of(made), base=self._base.ref,
            max_lora_rank=self._settings.engine.max_lora_rank, gate=made.gate, meta=made.meta,
            owner=None if self._job.owner == OPERATOR else self._job.owner,
        )  # fmt: skip
        told = runs.result(self._run) or {}
        runs.keep(self._run, runs.RESULT, told | {"version": str(version.ref), "gate": version.gate})
        shutil.rmtree(self._private.root, ignore_errors=True)
        return version

    def _folder_of(self, made: Version) -> Path:
        """Raises SumikaError `bad_result`, where the training's own store names a folder that is not its own."""
        folder = (self._private.artifacts / made.folder).resolve()
        if not folder.is_relative_to(self._private.artifacts.resolve()):
            raise SumikaError(
                "bad_result", "The training registered files that are not its own, so they are not taken. Resume the job, and look at its log.",
                "学習が自分のものではないファイルを登録したため、取り込みません。ログを確認し、ジョブを再開してください。", status=409,
            )  # fmt: skip
        return folder

    def _known(self) -> Version | None:
        """The version that was taken from this run before, by a worker that died then."""
        with self._store.read() as connection:
            found = (version for version in registry.list_all(connection) if version.ref.name == self._alias)
            return next((version for version in found if _run_of(version) == self._job.run), None)

    def _registered(self) -> Version | None:
        if not self._private.database.is_file():
            return None
        with closing(Store(self._url)) as store, store.read() as connection:
            return next((version for version in registry.list_all(connection) if _run_of(version) == self._job.run), None)

    def _find_base(self, name: str) -> Version | None:
        try:
            with self._store.read() as connection:
                return registry.get(connection, VersionRef.parse(name)) if "@" in name else registry.newest(connection, name)
        except SumikaError as error:
            if error.code == "store_unavailable":
                raise
            return None  # the training says so, in its own words

    def _versions(self) -> list[Version]:
        """The base, whatever holds the alias's name, and what the alias serves with the base that this stands on."""
        with self._store.read() as connection:
            alias = aliases.find(connection, self._alias)
            found = [self._base, registry.newest(connection, self._alias)]
            found += [registry.by_id(connection, alias.version_id)] if alias else []
            bases = [registry.by_id(connection, one.base_id) for one in found if one is not None and one.base_id is not None]
        return list({one.id: one for one in (*bases, *found) if one is not None}.values())

    def _lay_out(self) -> None:
        versions = self._versions()
        ids = [version.id for version in versions]
        with self._store.read() as connection:
            rows = [
                dict(row._mapping) for row in connection.execute(select(schema.versions).where(schema.versions.c.id.in_(ids)))
            ]
            pointed = [
                dict(row._mapping)
                for row in connection.execute(select(schema.aliases).where(schema.aliases.c.name == self._alias))
            ]
        with closing(Store(self._url)) as store:
            store.migrate()
            with store.write() as connection:
                for row in sorted(rows, key=lambda row: row["base_id"] is not None):
                    connection.execute(insert(schema.versions).values(**row))
                for row in pointed:
                    connection.execute(insert(schema.aliases).values(**row | {"canary_id": None, "canary_share": None}))
        for version in versions:
            _link(self._home.artifacts / version.folder, self._private.artifacts / version.folder)
        for file_id in self._files:
            _link(Shelf(self._home.files).path(file_id), Shelf(self._private.files).path(file_id))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.symlink_to(source)


def _run_of(version: Version) -> Any:
    training = version.meta.get("training")
    return training.get("run") if isinstance(training, dict) else None


def _read(file: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: part for key, part in value.items() if isinstance(part, dict)} if isinstance(value, dict) else {}


def _data(config: Any, home: Path) -> Iterator[Path]:
    """The files and folders of a job; nothing that would show it the home itself, or what lies at its top (keys, the database)."""
    for path in map(Path.absolute, _paths(config)):
        real = path.resolve()
        if path.exists() and real.parent != home:
            yield from without(path, home) if home.is_relative_to(real) else [path]


def _paths(config: Any) -> Iterator[Path]:
    """What data.train, evaluate.held_out, and `path` of sources and suites name."""
    if isinstance(config, dict):
        for key, value in config.items():
            named = value if isinstance(value, list) else [value]
            if key in ("path", "train", "held_out"):
                yield from (Path(text) for text in named if isinstance(text, str))
            yield from _paths(value)
    elif isinstance(config, list):
        for value in config:
            yield from _paths(value)
