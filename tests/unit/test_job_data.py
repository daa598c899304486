"""What a job's data may do to its check and its training: change behind them, hold secrets, take for ever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sumika.cli import main
from sumika.finetune import config, pipeline
from sumika.finetune.data import encoding, pii
from sumika.finetune.data.problems import DataError
from sumika.finetune.evaluation import checks, patterns
from sumika.finetune.evaluation.patterns import PatternSearch
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from tests.unit import checkbench, databench
from tests.unit.checkbench import CheckBench

KEY = "sk-sumika-" + "A1b2" * 12 + "x"
SECRETS = [
    KEY, "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 8, "sk-proj-" + "Ab1_" * 10, "sk-ant-api03-" + "x9" * 20,
    "xoxb-1234567890-abcdefghij", "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXX", "glpat-" + "x1" * 10, "hf_" + "aB1" * 11,
    "AIza" + "x1" * 17 + "y", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow+/=\n-----END RSA PRIVATE KEY-----",
]  # fmt: skip


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeded")
    checkbench.seed_home(folder / "home", folder)
    return folder / "home"


@pytest.fixture
def bench(seeded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckBench:
    monkeypatch.setenv("SUMIKA_HOME", str(seeded))
    return CheckBench(tmp_path)


@pytest.mark.parametrize("changed", ["train.jsonl", "held.jsonl", "suite.jsonl"])
def test_training_refuses_data_that_is_not_what_was_submitted(bench: CheckBench, seeded: Path, changed: str) -> None:
    bench.write("suite.jsonl", [{"messages": checkbench.turns("q5", "a2"), "facts": [["a2"]]}])
    bench.job(("  max_new_tokens: 8", "  max_new_tokens: 8\n  suites: [{name: a, path: '{folder}/suite.jsonl'}]"))
    told = CliRunner().invoke(main.build(), ["finetune", "submit", str(bench.folder / "job.yaml"), "--json"])
    assert told.exit_code == 0, told.output
    run = seeded / "runs" / json.loads(told.stdout)["run"]
    path = bench.folder / changed
    path.write_bytes(path.read_bytes().replace(b"a1", b"a9").replace(b"a2", b"a8"))
    settings = Settings(home=seeded)
    store = open_store(settings)
    try:
        with pytest.raises(SumikaError) as error:
            pipeline.run(config.load(run / "config.yaml"), store, settings.layout, Console(quiet=True), run)
    finally:
        store.close()
    assert error.value.code == "data_changed" and changed in error.value.en and not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("track", ["http://127.0.0.1:9", "sqlite:////tmp/mlflow.db", "nobody"])
def test_queue_takes_no_address_of_a_tracking_server(bench: CheckBench, seeded: Path, track: str) -> None:
    file = bench.job(("serve:", f"track: {{mlflow: '{track}'}}\nserve:"))
    told = CliRunner().invoke(main.build(), ["finetune", "submit", str(file)])
    assert isinstance(told.exception, SumikaError) and "finetune.tracking" in told.exception.en
    # Nor does the worker, where such a job came into the queue before.
    told = CliRunner().invoke(
        main.build(), ["finetune", "run", str(file), "--run", str(seeded / "runs"), "--parent", str(os.getppid())]
    )
    assert isinstance(told.exception, SumikaError) and "finetune.tracking" in told.exception.en
    if track.startswith("http"):
        assert bench.check()["rows"] == 2, "in the foreground an operator may"


def test_file_of_mlflow_lies_outside_home(bench: CheckBench, seeded: Path) -> None:
    for path in (seeded / "sumika.db", seeded / "runs/../trusted/x.pub"):
        bench.job(("serve:", f"track: {{mlflow: 'sqlite:///{path}'}}\nserve:"))
        with pytest.raises(SumikaError, match="Sumika's own"):
            bench.check()


@pytest.mark.parametrize("secret", SECRETS)
def test_secret_is_found_counted_and_dealt_with(tmp_path: Path, secret: str) -> None:
    (found,) = pii.find(f"鍵は {secret} です")
    assert found.kind == "secret" and secret[4:] not in found.hidden(f"鍵は {secret} です")
    rows = [
        {"messages": [{"role": "user", "content": "鍵は？"}, {"role": "assistant", "content": f"鍵は {secret} です"}]},
        {"messages": databench.QA},
    ]
    train = databench.write(tmp_path / "train.jsonl", rows)
    stopped = databench.prepared(tmp_path, train)
    assert [one.where.rpartition(":")[2] for one in stopped.problems.kept] == ["1"] and secret not in stopped.problems.kept[0].en
    assert "data.pii.secret" in stopped.problems.kept[0].en
    for action in ("mask", "allow"):
        taken = databench.prepared(tmp_path, train, pii={"secret": action})
        assert not taken.problems.count and taken.report.pii["secret"] == {"found": 1, "rows": 1, "action": action}
        text = databench.chat_format().tokenizer.decode(taken.shown[0].input_ids)  # type: ignore[union-attr]
        assert (secret in text, "〔秘密情報〕" in text) == (action == "allow", action == "mask")
        assert any(action in one.en for one in taken.report.warnings() if "secret" in one.en)


def test_words_that_only_begin_like_a_secret_are_none() -> None:
    text = "sk-learn-is-a-library-for-everything AKIA ghp_short xoxb PRIVATE KEY hf_model AKIAIOSFODNN7EXAMPLEandmore"
    assert not pii.find(text)


def test_control_token_is_counted_masked_or_refused(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "前<user>後<assistant>"}, databench.QA[1]]}]
    train = databench.write(tmp_path / "train.jsonl", rows)
    counted = databench.prepared(tmp_path, train)
    assert not counted.problems.count and counted.report.pii["control_token"] == {"found": 2, "rows": 1, "action": "allow"}
    assert any("control_token" in one.en for one in counted.report.warnings())
    masked = databench.prepared(tmp_path, train, pii={"control_token": "mask"})
    assert "〔制御トークン〕" in databench.chat_format().tokenizer.decode(masked.shown[0].input_ids)  # type: ignore[union-attr]
    stopped = databench.prepared(tmp_path, train, pii={"control_token": "block"})
    assert "<user>" in stopped.problems.kept[0].en


@pytest.mark.parametrize(
    "override", ["data.max_length=1000000000", "lora.r=100000", "lora.alpha=99999999999", "train.max_steps=1000000000000", "train.max_grad_norm=1e300",
                 "checkpoint.every=10000000000", "serve.gate.max_loss=1e300", "stop_early={patience: 100000000}", f"data.max_length={'9' * 400}", "train.epochs=1e300"],
)  # fmt: skip
def test_absurd_number_is_refused_with_its_bound(bench: CheckBench, override: str) -> None:
    bench.job()
    with pytest.raises(SumikaError) as told:
        bench.check(override)
    key = override.partition("=")[0]
    assert told.value.code == "bad_config" and key in told.value.en
    assert "less than or equal to" in told.value.en or "valid integer" in told.value.en


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_endless_line_is_refused_before_the_rest_is_decoded(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    feed = encoding._Attempt.feed

    def counted(self: Any, chunk: bytes, final: bool = False) -> None:
        nonlocal decoded
        decoded += len(chunk)
        feed(self, chunk, final)

    monkeypatch.setattr(encoding._Attempt, "feed", counted)
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"text\n")
        for _ in range(300):
            file.write(b"a" * 2**20)
    with pytest.raises(DataError) as told:
        encoding.look(path, "auto")
    assert told.value.line == 2 and "longer than" in told.value.en and decoded < 80 * 2**20


def test_good_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(encoding._Attempt, "__init__", _noting(encoding._Attempt.__init__, tried))
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "質問"}\n')
    assert encoding.look(path, "auto").name == "utf-8" and tried == ["utf-8"]


def _noting(made: Any, tried: list[str]) -> Any:
    def init(self: Any, name: str) -> None:
        tried.append(name)
        made(self, name)

    return init


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a?){4000000}", "(x+x+)+y|(a*)*$b"])
def test_pattern_that_would_take_for_ever_is_not_found(pattern: str) -> None:
    with PatternSearch() as search:
        assert not search.found(pattern, "a" * 5000 + "b")
        assert search.found("[0-9]{3}円", "119円"), "and the next is searched for as before"


def test_patterns_are_bounded_in_sum() -> None:
    with PatternSearch(left_s=0.3) as search:
        assert not search.found("(a+)+$", "a" * 50 + "b") and not search.found("a", "a")


def test_pattern_is_judged_as_pythons() -> None:
    assert [
        patterns.fault(text) is None for text in ("犬|猫", "(?P<a>x)(?P=a)", "(", "a{99999999999}", "(" * 1500, "x" * 2001)
    ] == [True] * 2 + [False] * 4
    row: Any = type("R", (), {"content": type("C", (), {"messages": [{"content": "^119円$"}]})(), "facts": ()})()
    assert checks.right("regex", "１１９円", row) and not checks.right("regex", "119円です", row)


@pytest.mark.parametrize(
    ("text", "value"),
    [('```json\n{"a": 1}\n```', True), (' ```{"a": 1}``` ', True), ('{"a": 1}', True), ("```" + " " * 60_000 + "x", False)],
)
def test_fenced_json_is_read_in_no_time(text: str, value: bool) -> None:
    row: Any = type("R", (), {"content": type("C", (), {"messages": [{"content": '{"a": 1}'}]})(), "facts": ()})()
    assert checks.right("json", text, row) is value


def test_jobs_from_before_have_no_hashes_and_run(tmp_path: Path) -> None:
    from sumika.finetune.data import inputs

    inputs.check_unchanged(tmp_path, {"a": "1"})
    inputs.keep(tmp_path, inputs.Inputs({Path("file-1"): tmp_path / "inputs/0/x"}, from_network=True), {"a": "1"})
    assert inputs.of_run(tmp_path).locate(Path("file-1")) == tmp_path / "inputs/0/x" and inputs.of_run(tmp_path).from_network
    inputs.check_unchanged(tmp_path, {"a": "1"})
    for other in ({"a": "2"}, {}, {"a": "1", "b": "1"}):
        with pytest.raises(SumikaError, match="not what it was"):
            inputs.check_unchanged(tmp_path, other)
