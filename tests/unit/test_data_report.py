"""What becomes of rows that can be trained on, and what the report says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sumika.finetune.chat import Rendered, RenderedPair
from sumika.finetune.data import language, near, pii, reports, weight
from sumika.finetune.data.fit import fit
from sumika.finetune.data.record import Conversation, Document, Preference
from tests.unit.databench import QA, chat_format, prepared, write


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def text(rendered: Any, ids: Any = None) -> str:
    return str(chat_format().tokenizer.decode(rendered.input_ids if ids is None else ids.tolist()))


def trained(rendered: Rendered) -> str:
    return str(chat_format().tokenizer.decode([label for label in rendered.labels if label >= 0]))


TWO = [turn("system", "s"), turn("user", "q1"), turn("assistant", "a1"), turn("user", "q2"), turn("assistant", "a2")]


# <bos><user>q1<end><assistant>a1<end>: one token a byte and one for each word in brackets
@pytest.mark.parametrize(
    ("limit", "fate", "whole", "learned"),
    [
        (None, "kept", "<bos><system>s<end><user>q1<end><assistant>a1<end><user>q2<end><assistant>a2<end>", "a1<end>a2<end>"),
        (20, "kept", "<bos><system>s<end><user>q1<end><assistant>a1<end><user>q2<end><assistant>a2<end>", "a1<end>a2<end>"),
        (19, "truncated", "<bos><system>s<end><user>q2<end><assistant>a2<end>", "a2<end>"),
        (12, "truncated", "<bos><system>s<end><user>q2<end><assistant>a2<end>", "a2<end>"),
        (11, "truncated", "<bos><system>s<end><user>q2<end><assistant>a2", "a2"),
        (10, "truncated", "<bos><system>s<end><user>q2<end><assistant>a", "a"),
        (9, "nothing_left", "", ""),
    ],
)
def test_long_conversation_loses_its_oldest_exchange_then_its_answers_end(
    limit: int | None, fate: str, whole: str, learned: str
) -> None:
    fitted = fit(chat_format(), Conversation(TWO), limit, "truncate")
    assert (fitted.fate, fitted.tokens) == (fate, 20)
    if fitted.rendered is not None:
        assert isinstance(fitted.rendered, Rendered)
        assert text(fitted.rendered) == whole and trained(fitted.rendered) == learned


def test_document_is_trained_from_end_to_end_and_cut_at_its_end() -> None:
    whole = fit(chat_format(), Document("abc"), 4, "error").rendered
    cut = fit(chat_format(), Document("abcdef"), 4, "truncate").rendered
    assert isinstance(whole, Rendered) and isinstance(cut, Rendered)
    assert text(whole) == trained(whole) == "abc<eos>" and text(cut) == trained(cut) == "abcd"


def test_pair_is_rendered_as_prompt_and_two_answers_and_dropped_where_cutting_makes_them_equal() -> None:
    pair = Preference([turn("user", "q")], "same-a", "same-b")
    kept = fit(chat_format(), pair, None, "error").rendered
    assert isinstance(kept, RenderedPair)
    assert [text(kept, ids) for ids in (kept.prompt_ids, kept.chosen_ids, kept.rejected_ids)] == ["<bos><user>q<end><assistant>", "same-a<end>", "same-b<end>"]  # fmt: skip
    assert (
        fit(chat_format(), pair, 11, "truncate").fate == "truncated"
        and fit(chat_format(), pair, 10, "truncate").fate == "nothing_left"
    )


def test_dropped_and_cut_rows_are_counted_and_told(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a" * n} for n in (5, 50, 500)]
    path = write(tmp_path / "a.csv", rows)
    dropped = prepared(tmp_path, path, limit=60, too_long="drop").report
    assert dropped.as_dict()["rows"] | {"read": 3, "kept": 2, "dropped": {"too_long": 1}} == dropped.as_dict()["rows"]
    cut = prepared(tmp_path, path, limit=60, too_long="truncate").report
    assert (cut.kept, cut.truncated, cut.tokens_cut) == (3, 1, 446) and max(cut.lengths) == 60
    assert [said.en for said in dropped.warnings()] == [
        "1 rows dropped: too long (data.too_long: drop)",
        "1 rows nearly repeat an earlier one",
    ]
    assert "1 rows cut to fit, 446 tokens lost" in [said.en for said in cut.warnings()]


@pytest.mark.parametrize(
    ("share", "least", "most", "shown"), [(1.0, 1, 1, 10), (2.0, 2, 2, 20), (0.25, 0, 1, 2), (1.5, 1, 2, 15)]
)
def test_weight_is_whole_repeats_and_a_sample_that_the_seed_fixes(share: float, least: int, most: int, shown: int) -> None:
    seen = weight.times(10, share, "7:0")
    assert sum(seen) == shown and min(seen) == least and max(seen) == most and seen == weight.times(10, share, "7:0")
    assert share in (1.0, 2.0) or len({tuple(weight.times(10, share, f"{seed}:0")) for seed in range(20)}) > 1


def test_sources_are_weighed_and_rows_that_are_never_shown_are_not_recorded(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", [{"質問": f"q{n}", "回答": "a"} for n in range(4)])
    two = write(tmp_path / "b.jsonl", [{"text": f"t{n}"} for n in range(4)])
    sources = [
        {"path": str(one), "weight": 2, "columns": {"prompt": "質問", "completion": "回答"}},
        {"path": str(two), "weight": 0.5},
    ]
    done = prepared(tmp_path, sources, seed=3)
    assert len(done.rows()) == done.report.seen == 10 and done.report.kept == 8
    assert [(s.rows, s.seen, s.left_out) for s in done.report.sources] == [(4, 8, 0), (4, 2, 2)]
    assert sum(mark.startswith("r ") for mark in done.marks) == 6
    assert any("2 rows are never shown" in said.en for said in done.report.warnings())


def test_masked_data_is_replaced_for_training_and_hidden_in_what_is_shown(tmp_path: Path) -> None:
    rows = [{"prompt": "連絡先は？", "completion": "電話03-1234-5678、taro@example.co.jpです。"}]
    masked = prepared(tmp_path, write(tmp_path / "a.csv", rows), pii="mask")
    assert "電話〔電話番号〕、〔メールアドレス〕です。" in text(masked.rows()[0])
    allowed = prepared(tmp_path, tmp_path / "a.csv", pii="allow")
    assert "03-1234-5678" in text(allowed.rows()[0])
    assert masked.marks == allowed.marks, "a record is found again whatever became of its personal data"
    for report in (masked.report, allowed.report):
        page = reports.page(report)
        assert "1234-5678" not in page and "taro" not in page and report.pii["phone"]["found"] == 1
    assert any(said.en == "1 × phone in 1 rows: left as they are (data.pii.phone: allow)" for said in allowed.report.warnings())


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("個人番号は123456789018です", ["my_number"]),
        ("６２１４　９８３２　０２５７", ["my_number"]),
        ("983205673214", ["my_number"]),
        ("621498320258", []),
        ("983205673210", []),
        ("000000000000", []),
        ("法人番号は5835678256246", []),
        ("4111 1111 1111 1111", ["card"]),
        ("4111-1111-1111-1112", []),
        ("3782-822463-10005", ["card"]),
        ("5555555555554444と123456789018", ["card", "my_number"]),
        ("電話(03)1234-5678", ["phone"]),
        ("０９０ー１２３４ー５６７８", ["phone"]),
        ("+81 90-1234-5678", ["phone"]),
        ("0120-123-456へ、または0312345678へ", ["phone", "phone"]),
        ("内線1234、〒210-0001、2026-11-23、1泊11,500円、03-1234-56789", []),
        ("Ｔａｒｏ＠ｅｘａｍｐｌｅ．ｃｏｍまで", ["email"]),
        ("@user a@b 1.2.3.4", []),
    ],
)
def test_personal_data_is_found_by_kind(given: str, kinds: list[str]) -> None:
    found = pii.find(given)
    assert [one.kind for one in found] == kinds
    assert len(pii.covered(given)) == len(given)
    assert not pii.find(pii.masked(given, found))


@pytest.mark.parametrize(
    ("given", "tongue"),
    [("有給休暇はいつまで？", "ja"), ("VPNの設定", "ja"), ("経費精算", "ja"), ("How do I apply?", "en"), ("Привет, мир", "other"), ("123", "other"),
     ("请问如何申请年假？我想了解公司的相关规定和流程安排", "other")],
)  # fmt: skip
def test_language_is_told_by_script(given: str, tongue: str) -> None:
    assert language.of(given) == tongue


def test_near_duplicates_are_those_that_share_most_runs_of_characters() -> None:
    first = "有給休暇の申請は、取得日の3営業日前までに「タイムさくら」の「休暇申請」の画面から行い、上長の承認を受けてください。"
    texts = [
        first,
        "名刺の注文は総務部の窓口まで、用紙K-3を添えて申し込んでください。",
        first.replace("3営業日", "4営業日"),
        "短い",
        first.replace("。", ""),
    ]
    signatures = near.stacked([near.signature(one) for one in texts])
    assert near.earlier(signatures).tolist() == [-1, -1, 0, -1, 0]
    assert near.across(signatures[2:4], signatures[:2]).tolist() == [0, -1]
    assert near.earlier(signatures[:0]).tolist() == []


def test_near_duplicates_among_many_cost_by_the_row() -> None:
    one = near.signature("同じ文章が何度も現れる大きなデータ")
    assert (near.earlier(near.stacked([one] * 50_000)) == 0).sum() == 49_999


def test_repeats_and_leaks_are_counted_by_place(tmp_path: Path) -> None:
    answer = "有給休暇の申請は、取得日の3営業日前までに「タイムさくら」で行ってください。"
    question = "有給休暇を取得したい場合に、申請はいつまでに行えばよいのか教えてください"
    rows = [
        {"prompt": question, "completion": answer},
        {"prompt": question, "completion": answer},
        {"prompt": question + "。", "completion": answer},
    ]
    held = write(tmp_path / "h.csv", [{"prompt": question + "！", "completion": "a", "facts": '[["a"]]'}])
    report = prepared(tmp_path, write(tmp_path / "a.csv", rows), held_out=held).report
    assert report.duplicates == {"exact": 1, "near": 1} and report.leaks == {"exact": 0, "near": 1} and report.distinct == 2
    assert report.pairs["duplicates_exact"][0].one.endswith("a.csv:3")


def test_same_ids_and_one_record_alone_are_told(tmp_path: Path) -> None:
    report = prepared(tmp_path, write(tmp_path / "a.csv", [{"id": 1, "text": "x"}] * 3)).report
    told = [said.en for said in report.warnings()]
    assert (
        "all rows hold the same record; nothing else can be learned" in told
        and "a.csv: 2 rows have the id of an earlier one" in told
    )


def test_page_is_one_file_in_two_languages_that_reaches_nowhere_and_trusts_no_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e\"'&"
    path = write(
        tmp_path / "<b>x.csv",
        [{"prompt": evil, "completion": evil, evil: evil}, {"prompt": "表", "completion": "はい", evil: ""}],
    )
    done = prepared(tmp_path, path)
    done.problems.stop()
    page = reports.keep(done.report, tmp_path, "ja")
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|\bsrc=|<link|<script|@import|url\(", html.replace(str(tmp_path), ""))
    assert "default-src 'none'" in html and "&lt;script&gt;" in html and "&lt;b&gt;x.csv" in html
    assert 'id="ja" aria-label="日本語" checked' in html and "学習するトークン" in html and "trained tokens" in html
    assert "<mark>はい&lt;end&gt;</mark>" in html
    assert page.stat().st_mode & 0o077 == 0
    counts = json.loads((tmp_path / "data-report.json").read_text())
    assert (
        counts == done.report.as_dict()
        and "script" not in json.dumps(counts["rows"])
        and "はい" not in json.dumps(counts, ensure_ascii=False)
    )


def test_report_of_pairs_shows_both_answers(tmp_path: Path) -> None:
    report = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "良い", "rejected": "悪い"}])).report
    assert "<mark>良い&lt;end&gt;</mark>" in reports.page(report) and "<mark>悪い&lt;end&gt;</mark>" in reports.page(report)


def test_report_of_data_that_is_refused_can_still_be_looked_at(tmp_path: Path) -> None:
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"messages": QA}, {"messages": []}]))
    assert done.problems.count == 1 and done.report.refused == 1 and done.report.kept == 1
    assert "1 rows are refused" in reports.page(done.report)


def test_hundred_thousand_signatures_and_records_stay_small() -> None:
    row = chat_format().render(Conversation(QA))
    assert isinstance(row, Rendered) and row.ids.itemsize == 4 and near.signature("x").nbytes == 256
