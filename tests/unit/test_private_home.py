"""The home that a training gets: the rows and files it needs, nothing else; and what is taken from it afterwards."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from sumika.finetune.queue.private import PrivateHome
from sumika.models import importing, jobs, keys, registry, schema
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.jobs import Job
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


def submitted(store: Store, home: Home, **data: object) -> Job:
    run = home.runs / "faq-1"
    run.mkdir()
    config = {"job": {"name": "faq"}, "base": {"version": "base"}, "serve": {"alias": "faq"}, "data": data}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with store.write() as connection:
        return jobs.submit(connection, "faq", run.name, actor="test", memory=1, owner="team-1", alias="faq")


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
    job = submitted(store, home, train=[{"path": str(data)}, {"path": str(home.admin_key)}, {"path": str(home.root)}])
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
