"""The home that a training gets: the rows and files it needs, nothing else; and what is taken from it afterwards."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from sumika.finetune.queue.private import PrivateHome
from sumika.models import aliases, importing, jobs, keys, registry, schema
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.jobs import Job
from sumika.models.principals import OPERATOR
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from tests.conftest import write_adapter


@pytest.fixture
def base(store: Store, home: Home, base_folder: Path) -> Version:
    return importing.import_base(store, home, "base", base_folder)


@pytest.fixture
def settings(home: Home) -> Settings:
    return Settings.model_validate({"home": home.root, "database_url": None})


def submitted(store: Store, home: Home, owner: str = "team-1", **data: object) -> Job:
    run = home.runs / "faq-1"
    run.mkdir()
    config = {"job": {"name": "faq"}, "base": {"version": "base"}, "serve": {"alias": "faq"}, "data": data}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with store.write() as connection:
        return jobs.submit(connection, "faq", run.name, actor="test", memory=1, owner=owner, alias="faq")


def trained(home: Home, job: Job, base: Version, work: Path) -> Store:
    """What a training does in its own home."""
    private = Home(home.runs / job.run / ".private")
    own = Store(f"sqlite:///{private.database}")
    folder = write_adapter(work / "made")
    importing.import_adapter(
        own, private, "faq", folder, base=base.ref, max_lora_rank=16, gate="passed", meta={"training": {"run": job.run}}
    )
    (home.runs / job.run / "result.json").write_text(json.dumps({"version": "faq@9", "gate": "passed"}))
    return own


def test_it_sees_its_base_its_data_and_its_run(
    store: Store, home: Home, settings: Settings, base: Version, base_folder: Path, tmp_path: Path
) -> None:
    with store.write() as connection:
        keys.create(connection, "somebody")
    importing.import_base(store, home, "other", base_folder)
    data = tmp_path / "train.jsonl"
    data.touch()
    home.admin_key.touch()
    named = [{"path": str(data)}, {"path": str(home.admin_key)}, {"path": str(home.root)}]
    job = submitted(store, home, OPERATOR, train=named)
    private = PrivateHome(job, store, settings)
    view = private.make()
    assert {home.artifacts / base.folder, data} <= set(view.reads) and view.writes == (home.runs / job.run,)
    assert not any(path in (home.root, home.admin_key, home.database, home.artifacts) for path in view.reads)
    with closing(Store(f"sqlite:///{home.runs / job.run / '.private' / 'sumika.db'}")) as own, own.read() as connection:
        assert [str(version.ref) for version in registry.list_all(connection)] == ["base@1"]
        assert keys.list_all(connection) == []
    told = yaml.safe_load(Path(private.environment()["SUMIKA_CONFIG"]).read_text())
    assert set(told) == {"home", "engine", "finetune"}


def test_what_it_made_is_registered_once(store: Store, home: Home, settings: Settings, base: Version, tmp_path: Path) -> None:
    job = submitted(store, home)
    private = PrivateHome(job, store, settings)
    private.make()
    trained(home, job, base, tmp_path).close()
    made = private.register()
    assert made is not None and (str(made.ref), made.gate, made.base) == ("faq@1", "passed", base.ref)
    assert json.loads((home.runs / job.run / "result.json").read_text())["version"] == "faq@1"
    again = PrivateHome(job, store, settings)
    again.make()
    trained(home, job, base, tmp_path / "again").close()
    assert again.register() == made


def test_files_that_are_not_its_own_are_not_taken(
    store: Store, home: Home, settings: Settings, base: Version, tmp_path: Path
) -> None:
    job = submitted(store, home)
    private = PrivateHome(job, store, settings)
    private.make()
    theirs = write_adapter(home.runs / "other-team" / "adapter")
    with closing(trained(home, job, base, tmp_path)) as own, own.write() as connection:
        connection.execute(
            update(schema.versions).where(schema.versions.c.name == "faq").values(folder="../../../other-team/adapter")
        )
    assert theirs.is_dir()
    with pytest.raises(SumikaError) as told:
        private.register()
    assert told.value.code == "bad_result"
    with store.read() as connection:
        assert registry.newest(connection, "faq") is None


def test_of_tracking_servers_it_learns_the_one_that_its_job_names(
    store: Store, home: Home, base: Version, tmp_path: Path
) -> None:
    token, other = tmp_path / "token", tmp_path / "other"
    token.write_text("t")
    other.write_text("o")
    servers = [
        {"name": "ours", "url": "https://mlflow.example.co.jp", "token_file": token},
        {"name": "others", "url": "https://mlflow.example.com", "token_file": other},
    ]
    settings = Settings.model_validate({"home": home.root, "finetune": {"tracking": servers, "data_root": tmp_path / "data"}})
    job = submitted(store, home)
    config = home.runs / job.run / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"track": {"mlflow": "ours"}}))
    private = PrivateHome(job, store, settings)
    view = private.make()
    assert token in view.reads and other not in view.reads and view.network
    told = yaml.safe_load(Path(private.environment()["SUMIKA_CONFIG"]).read_text())["finetune"]
    assert [server["name"] for server in told["tracking"]] == ["ours"] and told["data_root"] is None
    assert Settings.model_validate({"finetune": told}).finetune.tracking[0].token == "t"


def test_job_makes_versions_of_the_name_it_was_submitted_for(
    store: Store, home: Home, settings: Settings, base: Version, tmp_path: Path
) -> None:
    """Its file lies where an attempt before this one could write."""
    job = submitted(store, home)
    config = home.runs / job.run / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"serve": {"alias": "of-another-team"}}))
    private = PrivateHome(job, store, settings)
    private.make()
    trained(home, job, base, tmp_path).close()
    version = private.register()
    assert version is not None and (version.ref.name, version.owner) == ("faq", "team-1")


@pytest.mark.parametrize("owner", ["team-1", OPERATOR])
def test_later_attempt_sees_what_the_first_one_did(
    store: Store, home: Home, settings: Settings, base: Version, base_folder: Path, tmp_path: Path, owner: str
) -> None:
    """Whatever a training wrote into its run's folder: the job, an order, where its files lie."""
    importing.import_base(store, home, "others-base", base_folder)
    theirs, upload = tmp_path / "theirs.jsonl", home.files / "file-0123456789abcdef01234567.jsonl"
    theirs.touch()
    upload.touch()
    job = submitted(store, home, owner)
    first = PrivateHome(job, store, settings).make()
    run = home.runs / job.run
    config = {
        "job": {"name": "faq"}, "base": {"version": "others-base"}, "serve": {"alias": "faq"}, "train": {"gpus": 2},
        "data": {"train": [str(theirs), str(upload)]}, "evaluate": {"held_out": str(home.files)}, "track": {"mlflow": "company"},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    order = {
        "name": "faq",
        "model": "others-base@1",
        "training_file": upload.stem,
        "validation_file": None,
        "method": "supervised",
        "seed": 1,
    }
    (run / "order.json").write_text(json.dumps(order))
    again = PrivateHome(job, store, settings).make()
    assert (again.reads, again.network) == (first.reads, False)
    assert list((run / ".private" / "files").iterdir()) == []


def test_job_from_the_network_is_shown_no_path_of_this_machine(
    store: Store, home: Home, settings: Settings, base: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it names lies below its team's folder and was copied; the worker's own folder may hold the same names."""
    (tmp_path / "faq").mkdir()
    (tmp_path / "faq" / "train.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    job = submitted(store, home, train=["faq/train.jsonl", "."])
    assert not any(
        path.is_relative_to(tmp_path / "faq") or path == tmp_path for path in PrivateHome(job, store, settings).make().reads
    )


def test_name_that_became_another_teams_is_not_registered(
    store: Store, home: Home, settings: Settings, base: Version, tmp_path: Path
) -> None:
    job = submitted(store, home)
    private = PrivateHome(job, store, settings)
    private.make()
    trained(home, job, base, tmp_path).close()
    with store.write() as connection:
        aliases.ask_deploy(connection, "faq", base, actor="test", reason="", owner="team-2")
    with pytest.raises(SumikaError) as told:
        private.register()
    assert told.value.code == "name_taken"
    with store.read() as connection:
        assert registry.newest(connection, "faq") is None


ENDLESS = (
    "CREATE VIEW versions AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n WHERE id < 0"
)


@pytest.mark.parametrize("left", [b"no database", b"", ENDLESS])
def test_store_that_an_attempt_spoilt_is_laid_out_anew(
    store: Store, home: Home, settings: Settings, base: Version, left: bytes | str
) -> None:
    job = submitted(store, home)
    private = PrivateHome(job, store, settings)
    private.make()
    database = home.runs / job.run / ".private" / "sumika.db"
    for file in database.parent.glob("sumika.db*"):
        file.unlink()
    if isinstance(left, bytes):
        database.write_bytes(left)
    else:
        with closing(sqlite3.connect(database)) as connection:
            columns = [column.name for column in schema.versions.c]
            connection.execute(left.replace("SELECT id FROM", f"SELECT {', '.join(f'id AS {name}' for name in columns)} FROM"))
            connection.commit()
    private.make()
    with closing(Store(f"sqlite:///{database}")) as own, own.read() as connection:
        assert [str(version.ref) for version in registry.list_all(connection)] == ["base@1"]
