"""Data that can't be trained on: each is refused by file and row, or key, with what to do about it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pytest
from openpyxl.worksheet.worksheet import Worksheet
from pyarrow import parquet

from sumika.finetune.data.problems import BadData
from tests.unit.databench import QA, prepared, read, write

GOOD = json.dumps({"messages": QA}, ensure_ascii=False).encode()


def line(row: Any) -> bytes:
    return b"\n".join([GOOD, row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode(), GOOD])


def answered(text: str) -> dict[str, Any]:
    return {"messages": [QA[0], {"role": "assistant", "content": text}]}


# name of the file, its bytes, where the problem is told to be, what is said of it, and the remedy
BROKEN: list[tuple[str, bytes, str, str, str]] = [
    ("a.jsonl", line(b"{"), ":2", "not JSON", "each line holds one object"),
    ("a.jsonl", line([]), ":2", "not a JSON object", "each line holds one object"),
    ("a.jsonl", line({}), ":2", "'messages' is missing", "it has none"),
    ("a.jsonl", line({"message": QA}), ":2", "'messages' is missing", "did you mean 'message'?"),
    ("a.jsonl", line({"messages": []}), ":2", "'messages' is missing or empty", "list of {role, content}"),
    ("a.jsonl", line({"messages": ["x"]}), ":2", "message 1: is no object", "holds role and content"),
    ("a.jsonl", line({"messages": [{"role": "human", "content": "x"}]}), ":2", "message 1: role", "must be one of system, user, assistant"),
    ("a.jsonl", line({"messages": [{"role": ["user"], "content": "x"}]}), ":2", "message 1: role", "must be one of"),
    ("a.jsonl", line({"messages": [{"role": "user", "content": " "}]}), ":2", "content is missing or empty", "fill it in"),
    ("a.jsonl", line({"messages": [{"role": "user", "content": 1}]}), ":2", "content is missing or empty", "fill it in"),
    ("a.jsonl", line({"messages": QA[:1]}), ":2", "roles are user", "end with assistant"),
    ("a.jsonl", line({"messages": QA[::-1]}), ":2", "roles are assistant, user", "must be user, assistant"),
    ("a.jsonl", line({"messages": [*QA, QA[0]]}), ":2", "roles are user, assistant, user", "end with assistant"),
    ("a.jsonl", line({"messages": [QA[0], QA[1] | {"tool_calls": [1]}]}), ":2", "'tool_calls' is not trained on", "role and content alone"),
    ("a.jsonl", line({"messages": QA, "tools": [{}]}), ":2", "'tools' is not trained on", "take the column out"),
    ("a.jsonl", line(answered("文字\ufffd化け")), ":2", "message 2: holds U+FFFD", "export the data again as UTF-8"),
    ("a.jsonl", line(answered("こんにちは".encode().decode("cp932", "replace"))), ":2", "message 2: holds", "as UTF-8"),
    ("a.jsonl", line(answered("請求書".encode().decode("cp932"))), ":2", "UTF-8 that was read as CP932", "as UTF-8"),
    ("a.jsonl", line(answered("ガス料金".encode().decode("cp932", "ignore"))), ":2", "UTF-8 that was read as CP932", "as UTF-8"),
    ("a.jsonl", line(answered("日本語です".encode().decode("cp1252", "ignore"))), ":2", "UTF-8 that was read as Latin-1", "as UTF-8"),
    ("a.jsonl", line(answered("Ã¥Ã¤".encode().decode())), ":2", "UTF-8 that was read as Latin-1", "as UTF-8"),
    ("a.jsonl", line(answered("確認してください".encode("euc_jp").decode("cp932", "ignore"))), ":2", "EUC-JP that was read as CP932", "as UTF-8"),
    ("a.jsonl", line(answered("こんにちは".encode("euc_jp").decode("latin-1"))), ":2", "EUC-JP that was read as Latin-1", "as UTF-8"),
    ("a.jsonl", line(answered("日本".encode("cp932").decode("latin-1"))), ":2", "control character", "as UTF-8"),
    ("a.jsonl", line(b'{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]}'), ":2", "half a surrogate pair", "mend that character"),
    ("a.jsonl", line(answered("a\0b")), ":2", "holds a NUL character", "take it out"),
    ("a.jsonl", line(b"[" * 100_000), ":2", "nested too deep", "each line holds one object"),
    ("a.jsonl", line(b'{"messages": 1, "messages": 2}'), ":2", "a key is given twice", "each line holds one object"),
    ("a.jsonl", line(b'{"messages": NaN}'), ":2", "NaN is no JSON number", "each line holds one object"),
    ("a.jsonl", line(b'{"messages": ' + b"9" * 5000 + b"}"), ":2", "not JSON", "each line holds one object"),
    ("a.jsonl", b"", "", "holds no rows", "add some"),
    ("a.jsonl", b"\n  \n", "", "holds no rows", "add some"),
    ("a.jsonl", GOOD + b"\n\xff\xfe\x81\n", ":2", "is valid in none of", "save the file as UTF-8"),
    ("a.jsonl", GOOD + b"\0", "", "holds NUL bytes", "save it as UTF-8"),
    ("a.json", b"{}", "", "is not a list", "one object a line is .jsonl"),
    ("a.json", b"[1]", ":1", "not a JSON object", "the list holds objects"),
    ("a.json", b"[{]", ":1", "not JSON", "column 3"),
    ("a.csv", "質問,回答\nq,a\n".encode(), ":2", "its columns are 回答, 質問", "data.columns: {prompt: 質問, completion: 回答}"),
    ("a.csv", b"x,y\n1,2\n", ":2", "its columns are x, y", "name them in data.columns"),
    ("a.csv", b"prompt,completion\nq,a\nq\n", ":3", "has 1 cells, and the header 2", "in quotes"),
    ("a.csv", b"prompt,completion\nq,a\nq,a,b\n", ":3", "has 3 cells, and the header 2", "in quotes"),
    ("a.csv", b'prompt,completion\nq,"a\nq,a\n', ":2", "not a table of separated values", "every quote is closed"),
    ("a.csv", b'prompt,completion\nq,"a"b\n', ":2", "not a table of separated values", "written twice"),
    ("a.csv", b"prompt,prompt\nq,a\n", ":1", "two columns are named 'prompt'", "rename one"),
    ("a.csv", b"prompt,completion,\nq,a,b\n", ":2", "a column without a name", "name it in the header"),
    ("a.csv", b"prompt;completion\nq;a\n", ":1", "not separated by commas", "save it with commas"),
    ("a.csv", b"prompt\tcompletion\nq\ta\n", ":1", "not separated by commas", ".tsv"),
    ("a.csv", b"prompt,completion\nq,\n", ":2", "'completion' is missing or empty", "fill it in"),
    ("a.csv", b"prompt,completion\nq," + b"a" * 4_100_000 + b"\n", ":2", "a cell is longer than 4,000,000 characters", "shorten it"),
    ("a.csv", b"prompt,completion,text\nq,a,b\n", ":2", "fit prompt_completion and text", "set data.format"),
    ("a.csv", b"", "", "holds no rows", "names the columns"),
    ("a.csv", b"prompt,completion\n", "", "holds no rows", "add some"),
    ("a.csv", "prompt,completion\nこんにちは,はい\n".encode("euc_jp"), "", "can be read as EUC-JP and as CP932", "data.encoding to euc-jp or cp932"),
    ("a.tsv", b"prompt,completion\nq,a\n", ":2", "its columns are prompt,completion", "name them in data.columns"),
    ("a.jsonl", line({"conversations": []}), ":2", "'messages' is missing", "it has conversations"),
    ("b.jsonl", b'{"conversations": [{"from": "function_call", "value": "x"}]}', ":1", "message 1: from must be one of", "human, gpt"),
    ("b.jsonl", b'{"conversations": [{"from": "human", "value": "x"}]}', ":1", "roles are user", "end with assistant"),
    ("b.jsonl", b'{"instruction": "x", "output": 1}', ":1", "'output' must be text", "put it in quotes"),
    ("b.jsonl", b'{"instruction": "x", "output": "y", "history": [["a"]]}', ":1", "'history' must be", "[question, answer] pairs"),
    ("b.jsonl", b'{"text": ""}', ":1", "'text' is missing or empty", "fill it in"),
    ("b.jsonl", b'{"prompt": "q", "chosen": "a", "rejected": "a"}', ":1", "chosen and rejected are the same", "a better and a worse answer"),
    ("b.jsonl", b'{"chosen": "a", "rejected": "b"}', ":1", "'prompt' is missing", "add a prompt"),
    ("b.jsonl", b'{"prompt": "q", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}', ":1", "'chosen' must be one answer", "to the prompt"),
    ("b.jsonl", b'{"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}', ":1", "roles are assistant, assistant", "must be user"),
    ("a.xls", b"x", "", "old Excel format", "save it as .xlsx"),
    ("a.xlsm", b"x", "", "with macros", "save it as .xlsx"),
    ("a.jsonl.gz", b"x", "", "compressed", "unpack it first"),
    ("a.txt", b"x", "", "no table", "under 'text'"),
    ("a.py", b"x", "", "is code", "read are: .jsonl"),
    ("a.arrow", b"x", "", "'.arrow' is no kind of data file", "convert it"),
    ("a.xlsx", b"x", "", "is damaged", "save it again"),
    ("a.xlsx", bytes.fromhex("d0cf11e0a1b11ae1") + b"x" * 600, "", "protected by a password", "unprotected .xlsx"),
    ("a.parquet", b"PAR1xxxxPAR1", "", "is damaged", "save it again"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "at", "what", "remedy"), BROKEN, ids=[f"{n}-{w[:40]}" for n, _, _, w, _ in BROKEN])
def test_data_that_cannot_be_trained_on_is_refused_by_place_and_remedy(
    tmp_path: Path, name: str, content: bytes, at: str, what: str, remedy: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadData) as told:
        read(path)
    assert [problem.where for problem in told.value.problems] == [f"{path}{at}"]
    assert what in told.value.en and remedy in told.value.en
    assert told.value.problems[0].ja in told.value.ja and told.value.problems[0].ja != told.value.problems[0].en


def test_bad_rows_are_told_all_at_once_and_the_first_twenty_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD, *[b"{}", GOOD] * 30]))
    with pytest.raises(BadData) as told:
        read(path)
    assert "(30 to mend)" in told.value.en and f"{path}:40:" in told.value.en and f"{path}:42:" not in told.value.en
    assert "… 10 more" in told.value.en and "ほか 10 件" in told.value.ja


def test_table_whose_columns_fit_nothing_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(BadData) as told:
        read(write(tmp_path / "a.csv", [{"q1": "x", "a1": "y"}] * 100))
    assert len(told.value.problems) == 1


def sheet(change: Callable[[Worksheet], None]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        book = openpyxl.Workbook()
        book.active.append(["prompt", "completion"])
        book.active.append(["q", "a"])
        change(book.active)
        book.save(path)

    return build


def _set(cell: str, value: Any, number_format: str = "General") -> Callable[[Path], None]:
    def change(page: Worksheet) -> None:
        page[cell] = value
        page[cell].number_format = number_format

    return sheet(change)


def _zipped(name: str, content: bytes) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        sheet(lambda page: None)(path)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)

    return build


def _with_xml(head: bytes, row: bytes) -> Callable[[Path], None]:
    """A workbook whose sheet begins with `head` and ends with `row`."""

    def build(path: Path) -> None:
        sheet(lambda page: None)(path)
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        name = next(name for name in parts if name.endswith("sheet1.xml"))
        body = parts[name][parts[name].index(b"<worksheet") :].replace(b"</sheetData>", row + b"</sheetData>")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for part, content in (parts | {name: head + body}).items():
                file.writestr(part, content)

    return build


ENTITY = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
INLINE = b'<row r="%b"><c t="inlineStr" r="A%b"><is><t>%b</t></is></c></row>'


@pytest.mark.parametrize(
    ("build", "at", "what", "remedy"),
    [
        (_set("B2", "=1+1"), ":2", "B2 is a formula", "paste its value"),
        (_set("B2", '=WEBSERVICE("http://example.com")'), ":2", "B2 is a formula", "paste its value"),
        (_set("B2", 0.5, "0%"), ":2", "B2 is a date or formatted number", "make the column text"),
        (_set("B2", 45000, "yyyy/mm/dd"), ":2", "B2 is a date or formatted number", "make the column text"),
        (_set("B2", "#N/A"), ":2", "B2 is an Excel error", "mend it"),
        (_set("C2", "x"), ":2", "cell C2 stands under a column without a name", "name it in the header"),
        (_set("A1", 1), "", "cell A1 is no text", "name every column"),
        (_set("B1", "prompt"), "", "two columns are named 'prompt'", "rename one"),
        (lambda path: sheet(lambda page: page.delete_rows(1, 9))(path), "", "holds no rows", "names the columns"),
        (sheet(lambda page: page.parent.create_sheet("別").append(["x"])), "", "several sheets with rows (Sheet, 別)", "keep one"),
        (_zipped("xl/vbaProject.bin", b"x"), "", "holds macros", "without them"),
        (_zipped("xl/externalLinks/externalLink1.xml", b"x"), "", "links to other workbooks", "values only"),
        (_with_xml(ENTITY, INLINE % (b"3", b"3", b"&e;")), "", "is damaged", "save it again"),
        (_with_xml(b"", INLINE % (b"999999999999", b"999999999999", b"x")), "", "is damaged", "save it again"),
        (_zipped("xl/media/x.xml", b"0" * 50_000_000), "", "unpacks to far more", "values only"),
    ],
)  # fmt: skip
def test_workbook_that_holds_more_than_text_is_refused(
    tmp_path: Path, build: Callable[[Path], None], at: str, what: str, remedy: str
) -> None:
    path = tmp_path / "a.xlsx"
    build(path)
    with pytest.raises(BadData) as told:
        read(path)
    assert told.value.problems[0].where == f"{path}{at}" and what in told.value.en and remedy in told.value.en


def test_value_that_is_no_text_matters_only_in_a_column_that_is_used(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in (["prompt", "completion", "登録日", None], ["q", 119, "=TODAY()", None], [], ["q2", 0.25, 0.5, None]):
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")
    rows = read(tmp_path / "a.xlsx")
    assert [row.content.messages[-1]["content"] for row in rows] == ["119", "0.25"]
    assert [row.where[-2:] for row in rows] == [":2", ":4"]


def test_binary_column_of_a_parquet_file_is_refused_where_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["q"], "completion": [b"\x80"], "image": [b"\x80"]}), path)
    with pytest.raises(BadData, match=r"a\.parquet:1: 'completion' is binary; only text"):
        read(path)


def test_parser_that_runs_out_of_its_limits_is_told_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sumika.finetune.data import binary_tables

    worker = tmp_path / "worker.py"
    worker.write_text(
        'import os, signal\nprint(\'{"row": 1, "columns": {"text": "x"}}\', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n'
    )
    monkeypatch.setattr(binary_tables, "_WORKER", worker)
    with pytest.raises(BadData, match="within the limits on memory and time; split it"):
        read(write(tmp_path / "a.parquet", [{"text": "x"}]))


def test_folder_is_read_in_order_and_what_is_no_data_in_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deeper").mkdir(parents=True)
    write(folder / "b.csv", [{"prompt": "q", "completion": "b"}])
    write(folder / "a.jsonl", [{"messages": QA}])
    write(folder / "deeper" / "c.tsv", [{"text": "c"}])
    for beside in (".DS_Store", "~$b.xlsx", "README.md"):
        (folder / beside).write_text("x")
    assert [row.where for row in read(folder)] == [f"{folder}/a.jsonl:1", f"{folder}/b.csv:2", f"{folder}/deeper/c.tsv:2"]
    (folder / "old.xls").write_text("x")
    (folder / "out.jsonl").symlink_to(write(tmp_path / "elsewhere.jsonl", [{"messages": QA}]))
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(BadData) as told:
        read(folder)
    assert [problem.where.rpartition("/")[2] for problem in told.value.problems] == ["old.xls", "out.jsonl", "pipe.jsonl"]
    assert "leads out of the folder" in told.value.en and "no regular file" in told.value.en


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="the folder holds no data file"):
        read(tmp_path)


def test_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    from sumika.finetune.data.problems import Problems
    from sumika.finetune.data.reading import How, Reader

    path = write(tmp_path / "a.jsonl", [{"messages": QA}] * 3)
    problems = Problems()
    for row in Reader(problems).rows(path, How({})):
        if row.where.endswith(":1"):
            write(path, [{"messages": QA}] * 4)
    assert problems.kept[-1].en == "changed while it was read; try again"


PERSONAL = [("個人番号は123456789018です", "my_number", "••••••••••18"), ("カード 4111-1111-1111-1111", "card", "••••-••••-••••-••11"),
            ("電話は03-1234-5678", "phone", "••-••••-••78"), ("taro@example.co.jp まで", "email", "t•••@•••")]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "hidden"), PERSONAL)
def test_personal_data_that_blocks_stops_the_job_and_is_never_shown(tmp_path: Path, text: str, kind: str, hidden: str) -> None:
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"messages": QA}, answered(text)]), pii={kind: "block"})
    with pytest.raises(BadData) as told:
        done.problems.stop()
    assert "a.jsonl:2: message 2 holds" in told.value.en and hidden in told.value.en
    assert f"set data.pii.{kind} to mask or allow" in told.value.en and f"data.pii.{kind}" in told.value.ja
    assert "1234" not in told.value.en and "taro" not in told.value.en and "1111" not in told.value.en


def test_row_longer_than_fits_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"messages": QA}, answered("長い" * 50)]), limit=100)
    with pytest.raises(BadData, match=r"a\.jsonl:2: \d+ tokens, at most 100 fit; .*data.max_length.*data.too_long"):
        done.problems.stop()


def test_stop_token_spelt_out_in_a_text_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "ここで<end>終わり"}, {"text": "x"}]
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", rows))
    with pytest.raises(BadData, match=r"a\.jsonl:1: text: content holds <end>, which ends a turn; write it in other words"):
        done.problems.stop()


def test_question_held_out_and_trained_on_is_refused_whatever_its_answer_and_width(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [{"prompt": "ＶＰＮは？", "completion": "a"}])
    held = write(tmp_path / "h.csv", [{"prompt": "VPNは?", "completion": "b", "facts": '[["b"]]'}])
    with pytest.raises(BadData, match=r"h\.csv:2: this question is also trained on \(.*a\.csv:2\); take it out"):
        prepared(tmp_path, train, held_out=held).problems.stop()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": QA, "facts": [[]]}, "'facts' must be"),
        ({"messages": QA, "facts": [[" "]]}, "'facts' must be"),
        ({"text": "x", "facts": [["x"]]}, "a held-out row is a question and its answer"),
    ],
)
def test_held_out_row_that_cannot_be_judged_is_refused(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    held = write(tmp_path / "h.jsonl", [row])
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"text": "x"}]), held_out=held)
    with pytest.raises(BadData) as told:
        done.problems.stop()
    assert f"{held}:1: {what}" in told.value.en


def test_pairs_and_rows_do_not_train_together_nor_pairs_by_sft(tmp_path: Path) -> None:
    pairs = write(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(BadData, match="preference pairs and other rows don't train together"):
        prepared(tmp_path, [str(pairs), str(write(tmp_path / "a.jsonl", [{"text": "x"}]))]).problems.stop()
    with pytest.raises(BadData, match="preference pairs are learned by DPO"):
        prepared(tmp_path, pairs).rows()


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [answered("長い" * 50)]), limit=80, too_long="drop")
    with pytest.raises(BadData, match="no row is left to train on"):
        done.problems.stop()
