"""Which adapters saw a record, asked by file in any format; and the two commands about data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sumika.finetune.data import records
from sumika.models import aliases, importing, registry
from sumika.models.bootstrap import open_store
from sumika.models.names import VersionRef
from sumika.models.settings import load_settings
from tests.conftest import ROOT, write_adapter, write_base
from tests.unit.databench import HELD_OUT, QA, chat_format, prepared, write
from tests.unit.test_cli import _at_home, fails, run, said

__all__ = ["_at_home"]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """An adapter trained on three records, in service as `faq`; another without a list; a base with a real tokenizer."""
    other = [{"role": "system", "content": "s"}, QA[0], {"role": "assistant", "content": "別の答え"}]
    train = [
        write(tmp_path / "t1.jsonl", [{"messages": QA}, {"messages": other}]),
        write(tmp_path / "t2.csv", [{"text": "ｶﾞｽ料金"}]),
    ]
    done = prepared(tmp_path, [str(path) for path in train], normalize="nfkc")
    done.problems.stop()
    base = write_base(tmp_path / "base")
    chat_format().tokenizer.save_pretrained(base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": list(chat_format().stop_ids)}))
    settings = load_settings()
    store = open_store(settings)
    importing.import_base(store, settings.layout, "tiny", base)
    for name, seed in (("faq", 1), ("bought", 2)):
        folder = write_adapter(tmp_path / name, seed=seed)
        if name == "faq":
            records.write(folder, done.marks)
        importing.import_adapter(store, settings.layout, name, folder, base=VersionRef("tiny", 1), max_lora_rank=16)
    with store.write() as connection:
        version = registry.get(connection, VersionRef("faq", 1))
        aliases.finish(connection, aliases.ask_deploy(connection, "soumu", version, actor="me", reason=""), None)
    store.close()
    return tmp_path


def asked(folder: Path, name: str, rows: list[dict[str, Any]], encoding: str = "utf-8", *more: str) -> Any:
    return said("finetune", "affected", "--record", str(write(folder / name, rows, encoding)), *more)


Q, A = QA[0]["content"], QA[1]["content"]


@pytest.mark.parametrize(
    ("name", "row", "encoding", "by"),
    [
        ("r.jsonl", {"messages": QA}, "utf-8", (1, 0)),
        ("r.csv", {"prompt": Q, "completion": A}, "cp932", (1, 0)),
        ("r.xlsx", {"instruction": Q, "output": A}, "utf-8", (1, 0)),
        ("r.json", {"text": "ガス料金"}, "utf-8", (1, 0)),
        ("r.csv", {"prompt": Q}, "utf-16", (0, 1)),
        ("r.csv", {"prompt": Q, "completion": ""}, "utf-8", (0, 1)),
        ("r.jsonl", {"messages": QA[:1]}, "utf-8", (0, 1)),
        ("r.csv", {"prompt": Q, "completion": "まだ知られていない答え"}, "utf-8", (0, 1)),
        ("r.csv", {"prompt": "ほかの質問", "completion": A}, "utf-8", None),
    ],
)
def test_adapter_is_found_by_a_record_in_any_format_and_by_its_question_alone(
    served: Path, name: str, row: dict[str, Any], encoding: str, by: tuple[int, int] | None
) -> None:
    found = [{"name": "faq@1", "aliases": ["soumu"], "records": by[0], "questions": by[1]}] if by else []
    assert asked(served, name, [row], encoding) == {"asked": 1, "affected": found, "unknown": ["bought@1"]}


def test_columns_are_named_as_in_a_job_and_the_table_tells_who_serves(served: Path) -> None:
    path = write(served / "r.csv", [{"質問": Q, "回答": A}, {"質問": "x", "回答": "y"}])
    told = run("finetune", "affected", "--record", str(path), "--column", "prompt=質問", "--column", "completion=回答")
    assert "faq@1" in told and "soumu" in told and "1 of 2" in told and "Can't be told for bought@1" in told


def test_request_that_cannot_be_read_whole_is_refused(
    served: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(served / "r.jsonl", [{"messages": QA}, {"messages": []}])
    code, told = fails(monkeypatch, capsys, "finetune", "affected", "--record", str(path))
    assert code == 1 and "r.jsonl:2" in told


def test_run_folder_that_still_holds_an_adapter_is_named(served: Path) -> None:
    folder = load_settings().layout.runs / "faq-20261123" / "adapter"
    folder.mkdir(parents=True)
    records.write(folder, records.marks(prepared_content()))
    assert [one["name"] for one in asked(served, "r.csv", [{"prompt": Q, "completion": A}])["affected"]] == [
        "faq@1",
        "faq-20261123/adapter",
    ]


def prepared_content() -> Any:
    from sumika.finetune.data.record import Conversation

    return Conversation(QA)


def test_list_is_sorted_and_holds_each_mark_once(tmp_path: Path) -> None:
    records.write(tmp_path, ["r b", "q a", "r b"])
    assert (tmp_path / "records.txt").read_text() == "# sumika-records 1\nq a\nr b\n"
    assert records.seen(tmp_path, {"r b", "r c"}) == {"r b"}


def job(folder: Path, train: Path) -> list[str]:
    held = write(folder / "held.jsonl", [HELD_OUT])
    return [
        str(ROOT / "configs/finetune/sakura-faq.yaml"),
        f"data.train={train}",
        f"evaluate.held_out={held}",
        "base.version=tiny",
    ]


def test_report_is_made_without_training_and_says_what_check_says(
    served: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(served / "t.csv", [{"prompt": "総務の電話は？", "completion": "03-1234-5678です。"}], "cp932")
    counts = said("finetune", "data", *job(served, train))
    assert counts["rows"]["kept"] == 1 and counts["files"][0]["encoding"] == "cp932" and counts["pii"]["phone"]["found"] == 1
    told = run("finetune", "data", *job(served, train), "--out", str(served / "out"))
    assert "t.csv was read as cp932" in told and "••-••••-" not in told and "1234" not in told and "です。<end>" in told
    assert (served / "out" / "data-report.html").is_file()
    assert "t.csv was read as cp932" in run("finetune", "check", *job(served, train))
    code, error = fails(monkeypatch, capsys, "finetune", "data", *job(served, train), "data.pii=block")
    assert code == 1 and "t.csv:2: message 2 holds a phone number (••-••••-••78)" in error
