"""The folder below `finetune.data_root` that a team's jobs read."""

from __future__ import annotations

from pathlib import Path

from sumika.finetune.data.staging import Staging
from sumika.models import keys, teams
from sumika.models.actor import SYSTEM
from sumika.models.home import Home
from sumika.models.principals import Principal
from sumika.models.store import Store


def engineer(store: Store, team: str) -> Principal:
    with store.read() as connection:
        return Principal("k", "k", "engineer", team, team_id=teams.get(connection, team).id)


def missing(store: Store, home: Home, data: Path, who: Principal, run: str) -> list[str]:
    folder = home.runs / run
    folder.mkdir()
    return Staging(store, home, data, who).stage({"data.train": Path("train.jsonl")}, folder)[1]


def test_team_made_again_by_the_same_name_does_not_read_the_old_ones_data(store: Store, home: Home, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "dx").mkdir(parents=True)
    (data / "dx" / "train.jsonl").touch()
    with store.write(by=SYSTEM) as connection:
        teams.create(connection, "dx")
    assert missing(store, home, data, engineer(store, "dx"), "one") == []
    with store.write(by=SYSTEM) as connection:
        teams.remove(connection, "dx")
        teams.create(connection, "dx")
    again = engineer(store, "dx")
    assert missing(store, home, data, again, "two") == ["data.train"]
    (data / again.owner).mkdir()
    (data / again.owner / "train.jsonl").touch()
    assert missing(store, home, data, again, "three") == []


def test_ended_keys_tell_of_an_older_team_where_the_log_is_pruned(store: Store) -> None:
    with store.write(by=SYSTEM) as connection:
        first = teams.create(connection, "dx")
        _, key = keys.create(connection, "old", team="dx")
        keys.revoke(connection, key.id)
        assert teams.folder(connection, "dx", first.id) == "dx"
        assert teams.folder(connection, "dx", "team-0") == "team-0"
