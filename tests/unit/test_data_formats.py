"""Formats: what each becomes, and that a record has one hash in all of them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumika.finetune.data import mojibake, records
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Conversation, Document, Preference, record_hash
from tests.unit.databench import QA, read, write


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


SYSTEM, U1, A1, U2, A2 = (
    turn("system", "s"),
    turn("user", "q1"),
    turn("assistant", "a1"),
    turn("user", "q2"),
    turn("assistant", "a2"),
)


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"messages": [SYSTEM, U1, A1]}, Conversation([SYSTEM, U1, A1])),
        ({"messages": [U1 | {"name": None}, A1], "id": 3}, Conversation([U1, A1])),
        ({"conversations": [{"from": "human", "value": "q1"}, {"from": "gpt", "value": "a1"}]}, Conversation([U1, A1])),
        ({"conversations": [U1, A1], "system": "s"}, Conversation([SYSTEM, U1, A1])),
        ({"instruction": "q1", "input": "", "output": "a1"}, Conversation([U1, A1])),
        ({"instruction": "q1", "input": "x", "output": "a1"}, Conversation([turn("user", "q1\n\nx"), A1])),
        ({"instruction": "q2", "output": "a2", "history": [["q1", "a1"]], "system": "s"}, Conversation([SYSTEM, U1, A1, U2, A2])),
        ({"prompt": "q1", "completion": "a1"}, Conversation([U1, A1])),
        ({"prompt": "q1", "completion": "a1", "system": "s"}, Conversation([SYSTEM, U1, A1])),
        ({"prompt": [U1, A1, U2], "completion": [A2]}, Conversation([U1, A1, U2, A2])),
        ({"prompt": "q1", "completion": '{"role": "part", "name": "表"}'}, Conversation([U1, turn("assistant", '{"role": "part", "name": "表"}')])),
        ({"text": "本文"}, Document("本文")),
        ({"prompt": "q1", "chosen": "a1", "rejected": "a2"}, Preference([U1], "a1", "a2")),
        ({"prompt": [SYSTEM, U1], "chosen": [A1], "rejected": [A2]}, Preference([SYSTEM, U1], "a1", "a2")),
        ({"prompt": "q1", "chosen": [U1, A1], "rejected": [U1, A2]}, Preference([U1], "a1", "a2")),
        ({"chosen": [U1, A1], "rejected": [U1, A2]}, Preference([U1], "a1", "a2")),
        ({"conversations": [{"from": "human", "value": "q1"}], "chosen": {"from": "gpt", "value": "a1"}, "rejected": {"from": "gpt", "value": "a2"}},
         Preference([U1], "a1", "a2")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_row_becomes_the_record_it_stands_for_also_as_json_in_a_cell(
    tmp_path: Path, row: dict[str, Any], content: Any, suffix: str
) -> None:
    cells = {
        n: json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) and suffix == ".csv" else v for n, v in row.items()
    }
    (read_row,) = read(write(tmp_path / f"a{suffix}", [cells]))
    assert read_row.content == content


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx"])
def test_japanese_headers_are_mapped_and_a_hidden_column_is_not_taken(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [{"質問": "q1", "カ\u3099イト\u3099 ": "a1", "prompt": "no"}])
    (row,) = read(path, columns={"prompt": "質問", "completion": "ガイド"})
    assert row.content == Conversation([U1, A1])


def test_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    from sumika.finetune.data.problems import BadData

    path = write(tmp_path / "a.csv", [{"質問文": "q1", "回答": "a1"}])
    with pytest.raises(BadData) as told:
        read(path, columns={"prompt": "質問", "completion": "回答"})
    assert "data.columns.prompt: there is no column '質問'; there are 回答, 質問文; did you mean '質問文'?" in told.value.en


def test_format_that_is_set_decides_where_columns_fit_two(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"instruction": "q1", "output": "a1", "text": "all of it"}])
    assert read(path, format="alpaca")[0].content == Conversation([U1, A1])
    assert read(path, format="text")[0].content == Document("all of it")


def test_long_cell_beyond_the_standard_librarys_limit_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"text": "長" * 200_000}])
    assert len(read(path)[0].content.text) == 200_000


def test_rows_of_text_files_are_told_by_line_even_after_cells_with_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"text": "1\n2\n3"}, {"text": "x"}])
    assert [row.where for row in read(path)] == [f"{path}:2", f"{path}:5"]


def test_hash_depends_on_every_text_and_role_and_on_nothing_else() -> None:
    seen = [Conversation([U1, A1]), Conversation([SYSTEM, U1, A1]), Conversation([U1, A2]), Conversation([turn("user", "q1\na1")]),
            Document("q1"), Preference([U1], "a1", "a2"), Preference([U1], "a2", "a1")]  # fmt: skip
    assert len({record_hash(one) for one in seen}) == len(seen)
    assert record_hash(Conversation([turn("user", "ｶﾞｽ\r\n１ "), A1])) == record_hash(Conversation([turn("user", "ガス\n1"), A1]))
    assert record_hash(Conversation(QA)) == "5784fe281cb8b75c1c578d5e037c5954"  # never to change: adapters keep it


def test_pair_is_found_by_either_conversation_it_stands_for_and_by_its_question() -> None:
    marks = set(records.marks(Preference([U1], "a1", "a2")))
    assert marks > set(records.marks(Conversation([U1, A1]))) and marks > set(records.marks(Conversation([U1, A2])))


def sound(text: str) -> bool:
    try:
        mojibake.refuse(text)
    except DataError:
        return False
    # What Excel writes as an escape of its own, and JSON that is a list of messages, are not the text they look like.
    return bool(text.strip()) and "_x" not in text and not text.lstrip().startswith(("[", "{"))


TEXTS = st.text(
    st.one_of(
        st.sampled_from("有給休暇の表～①髙ｶﾞａＡ,\"'\t\\;=|　 \n"),
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]),
    ),
    min_size=1,
    max_size=20,
).filter(sound)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


def written(folder: Path, pairs: list[tuple[str, str]], suffixes: list[str]) -> dict[str, Path]:
    plain = [{"prompt": q, "completion": a} for q, a in pairs]
    files = {suffix: write(folder / f"plain{suffix}", plain) for suffix in suffixes}
    files["messages"] = write(folder / "m.jsonl", [{"messages": [turn("user", q), turn("assistant", a)]} for q, a in pairs])
    files["sharegpt"] = write(
        folder / "s.jsonl", [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in pairs]
    )
    files["alpaca"] = write(folder / "al.csv", [{"output": a, "input": "", "instruction": q} for q, a in pairs], "utf-16")
    return files


def hashes_agree(pairs: list[tuple[str, str]], suffixes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = written(Path(name), pairs, suffixes)
        hashes = {kind: [row.hash for row in read(path)] for kind, path in files.items()}
    wanted = [record_hash(Conversation([turn("user", q), turn("assistant", a)])) for q, a in pairs]
    assert all(found == wanted for found in hashes.values()), {k: v == wanted for k, v in hashes.items()}


@given(PAIRS)
@settings(max_examples=20, deadline=None)
def test_record_has_one_hash_in_every_text_format(pairs: list[tuple[str, str]]) -> None:
    hashes_agree(pairs, [".jsonl", ".json", ".csv", ".tsv"])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=20, max_size=40))
@settings(max_examples=2, deadline=None)
def test_record_has_one_hash_in_parquet_and_excel_too(pairs: list[tuple[str, str]]) -> None:
    hashes_agree(pairs, [".parquet", ".xlsx"])
