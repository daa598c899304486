"""A training's own home: a store with the few rows that it needs and links to the files that they name.

What trains never opens the installation's store and never sees its keys. It registers what it made in its own store; the worker
takes that from there, checks it as it checks any import, and registers it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, event, insert, select

from sumika.finetune import runs
from sumika.finetune.queue import grants
from sumika.models import aliases, importing, orders, registry, schema
from sumika.models.errors import SumikaError
from sumika.models.home import Home, write_atomically
from sumika.models.jobs import Job
from sumika.models.names import VersionRef
from sumika.models.principals import OPERATOR, Principal
from sumika.models.registry import Version
from sumika.models.sandbox import View
from sumika.models.settings import Settings
from sumika.models.shelf import Shelf
from sumika.models.store import Store

_FOLDER = ".private"
_SETTINGS = "sumika.yaml"
# Of the store that a training leaves: it holds the versions that it was given, and one.
_MOST_VERSIONS = 50
_LONGEST_LOOK_S = 10.0
_LARGEST = 64 * 2**20
_WORKER = Principal("worker", "worker", "admin")


class PrivateHome:
    """Made for one attempt of a job, from the installation's `store` and `settings`."""

    def __init__(self, job: Job, store: Store, settings: Settings) -> None:
        self._job, self._store, self._settings = job, store, settings
        self._home = settings.layout
        self._run = self._home.runs / job.run
        self._private = Home(self._run / _FOLDER)
        self._url = f"sqlite:///{self._private.database}"
        with store.read() as connection:
            order = orders.of_job(connection, job.id)
        granted = grants.kept(self._home.runs, job, lambda: grants.of(job, order, self._run, self._home.root, self._newest))
        self._alias = granted.alias
        self._base = self._find_base(granted.base)
        self._files = granted.files
        self._data = [Path(path) for path in granted.data]
        self._tracking = [server for server in settings.finetune.tracking if server.name == granted.mlflow]
        self._network = granted.network

    def make(self) -> View:
        """Lay it out anew, unless an attempt before this one came as far as registering; what the training sees."""
        if not self._came_to_register():
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
        version = self._known() or self._import(made, self._base)
        told = runs.result(self._run) or {}
        runs.keep(self._run, runs.RESULT, told | {"version": str(version.ref), "gate": version.gate})
        shutil.rmtree(self._private.root, ignore_errors=True)
        return version

    def _import(self, made: Version, base: Version) -> Version:
        """Raises SumikaError `name_taken` (409); as `importing.import_adapter`."""
        with self._store.read() as connection:
            aliases.check_registered_for(connection, self._job.owner, self._alias)
        return importing.import_adapter(
            self._store, self._home, self._alias, self._folder_of(made), base=base.ref,
            max_lora_rank=self._settings.engine.max_lora_rank, gate=made.gate, meta=made.meta,
            owner=None if self._job.owner == OPERATOR else self._job.owner,
        )  # fmt: skip

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

    def _came_to_register(self) -> bool:
        try:
            return self._registered() is not None
        except Exception:  # an edge: what an attempt before this one left may be anything
            return False

    def _registered(self) -> Version | None:
        if not self._private.database.is_file():
            return None
        with closing(Store(self._url)) as store:
            _bound(store)
            with store.read() as connection:
                _check_plain(connection, self._private.database)
                found = registry.page(connection, _WORKER, limit=_MOST_VERSIONS)
        return next((version for version in found if _run_of(version) == self._job.run), None)

    def _newest(self, name: str) -> str:
        """The version that a base's name stands for now; another may be the newest at a later attempt."""
        base = self._find_base(name)
        return name if base is None else str(base.ref)

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


def _bound(store: Store) -> None:
    """A file that is damaged on purpose may be walked through without end."""

    @event.listens_for(store.engine, "connect")
    def bound(connection: Any, _: Any) -> None:
        until = time.monotonic() + _LONGEST_LOOK_S
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)


def _check_plain(connection: Connection, file: Path) -> None:
    """What a training wrote may be a view or a column that is computed without end, or fill the memory.

    Raises:
        SumikaError: `bad_result`.
    """
    kinds = [row.type for row in connection.exec_driver_sql("PRAGMA table_list('versions')")]
    computed = [row.name for row in connection.exec_driver_sql("PRAGMA table_xinfo('versions')") if row.hidden]
    if kinds != ["table"] or computed or file.stat().st_size > _LARGEST:
        raise SumikaError(
            "bad_result", "What the training left is no list of versions, so it is not taken. Resume the job, and look at its log.",
            "学習の結果が版の一覧ではないため、取り込みません。ログを確認し、ジョブを再開してください。", status=409,
        )  # fmt: skip
