"""`sumika doctor` and `sumika db` beside a Sumika that runs."""

from __future__ import annotations

import os
import signal

import pytest

from sumika.cli.checkup import gathered
from sumika.models import upgrades
from sumika.models.errors import SumikaError
from tests.integration.conftest import Stack, until


def levels(stack: Stack) -> dict[str, tuple[str, str]]:
    return {finding.name: (finding.level, finding.en) for finding in gathered.of_store(stack.settings, deep=True)}


def test_what_runs_is_told(own_stack: Stack) -> None:
    own_stack.deploy("talk", own_stack.base())
    until(lambda: levels(own_stack)["supervisor"] == ("ok", "a supervisor is at work"), what="all is at work")
    assert levels(own_stack)["port"][1].startswith("Sumika listens")
    unwitnessed = {"audit_witness"}  # no place outside is set up here
    until(
        lambda: {name for name, (level, _) in levels(own_stack).items() if level != "ok"} == unwitnessed, what="nothing is found"
    )
    pid = own_stack.role_pid("supervise")
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: levels(own_stack)["supervisor"][0] == "warn", what="a supervisor that hangs is told")
        with pytest.raises(SumikaError) as told, own_stack.store.migrating() as (connection, config):
            upgrades.downgrade(connection, config, "0001")
        # A gateway without a supervisor counts; and who was stopped in the midst of a write holds the database.
        assert told.value.code in ("still_running", "store_unavailable")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: levels(own_stack)["supervisor"][0] == "ok", what="it went on")
    assert own_stack.chat("talk").status_code == 200


def test_files_of_a_version_that_changed_are_told(own_stack: Stack) -> None:
    version = own_stack.base()
    weights = own_stack.settings.layout.artifacts / version.folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert levels(own_stack)["weights_hashes"][0] == "fail" and str(version.ref) in levels(own_stack)["weights_hashes"][1]
    assert levels(own_stack)["weights"][0] == "ok"
    (weights.parent / "manifest.json").unlink()
    assert levels(own_stack)["weights_hashes"][0] == "fail" and levels(own_stack)["database"][0] == "ok"
    own_stack.settings.layout.root.joinpath("signing.key").write_text("none")
    assert levels(own_stack)["audit_chain"][0] == "fail" and levels(own_stack)["database"][0] == "ok"
    weights.parent.rename(weights.parent.with_name("gone"))
    assert levels(own_stack)["weights"][0] == "fail"
