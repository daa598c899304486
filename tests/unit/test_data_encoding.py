"""Encodings, decided on the whole file; and what CP932, Unicode and Excel do to Japanese text."""

from __future__ import annotations

from pathlib import Path

import pytest

from sumika.finetune.data import encoding, unicode
from sumika.finetune.data.problems import BadData, DataError
from tests.unit.databench import prepared, read, write

# 表 ends in the byte 5C, ①髙﨑 are in cp932 and not in shift_jis, ～ is CP932's reading of the bytes 81 60.
HARD = "表示①髙﨑㈱の～ソ能"


@pytest.mark.parametrize(
    ("codec", "name", "text"),
    [
        ("utf-8", "utf-8", HARD),
        ("utf-8-sig", "utf-8", HARD),
        ("cp932", "cp932", HARD),
        ("cp932", "cp932", "ﾊﾝｶｸの表"),
        ("euc_jp", "euc-jp", "漢字を含む長い文章、アンケートの結果"),
        ("utf-16", "utf-16", HARD),
        ("utf-8", "utf-8", "Grüße, naïve café"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_text_comes_out_of_every_encoding_as_it_went_in(tmp_path: Path, codec: str, name: str, text: str, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [{"prompt": text, "completion": f"{text}\n\\{text}"}], codec)
    for wanted in {"auto", name}:
        (row,) = read(path, encoding=wanted)
        assert [m["content"] for m in row.content.messages] == [text, f"{text}\n\\{text}"]
    assert encoding.look(path, "auto").name == name


def test_wave_dash_of_cp932_is_read_as_windows_reads_it_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,completion\r\n" + "時間は".encode("cp932") + b"9\x81\x6017," + "表".encode("cp932") + b"\r\n")
    done = prepared(tmp_path, path)
    done.problems.stop()
    assert done.report.files[0].encoding == "cp932" and done.report.files[0].disputed == 1
    assert done.report.forms["full_width_tilde_ff5e"] == 1
    told = [said.en for said in done.report.warnings()]
    assert "a.csv was read as cp932; look at the samples" in told and any(
        "other programs read from CP932 as 〜" in en for en in told
    )


def test_both_wave_dashes_in_one_set_are_told(tmp_path: Path) -> None:
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"text": "9〜17時"}, {"text": "9～17時"}]))
    assert any("〜 (U+301C, 1 rows) and ～ (U+FF5E, 1 rows)" in said.en for said in done.report.warnings())


def test_ascii_head_does_not_hide_what_follows(tmp_path: Path) -> None:
    """An Excel CSV whose first megabytes are ASCII, and whose last row is CP932."""
    rows = [{"prompt": f"question {n} " + "x" * 1000, "completion": "answer"} for n in range(2500)]
    path = write(tmp_path / "a.csv", [*rows, {"prompt": "最後の行", "completion": HARD}], "cp932")
    assert path.stat().st_size > 2 * 2**20 and encoding.look(path, "auto").name == "cp932"


@pytest.mark.parametrize(
    ("codec", "wanted", "said"),
    [
        ("cp932", "utf-8", "a.csv:3: byte 2[0-9] is not utf-8; it looks like cp932: set data.encoding to that, or to auto"),
        ("cp932", "euc-jp", "a.csv:3: byte 2[0-9] is not euc-jp; it looks like cp932"),
        ("cp932", "utf-16", "is not utf-16; it looks like cp932"),
        ("utf-8", "cp932", "is not cp932; it looks like utf-8"),
        ("utf-8", "euc-jp", "is not euc-jp; it looks like utf-8"),
        ("utf-16-le", "auto", "holds NUL bytes: .* UTF-16 without a byte order mark; save it as UTF-8"),
        ("utf-32", "auto", "holds NUL bytes: it is binary, UTF-32"),
    ],
)
def test_file_in_another_encoding_than_set_is_refused_by_line_and_byte(
    tmp_path: Path, codec: str, wanted: str, said: str
) -> None:
    path = write(tmp_path / "a.csv", [{"prompt": "q", "completion": "a"}, {"prompt": HARD, "completion": HARD}], codec)
    with pytest.raises(BadData, match=said):
        read(path, encoding=wanted)


def test_what_may_be_two_encodings_is_never_guessed(tmp_path: Path) -> None:
    text = "こんにちは"
    path = write(tmp_path / "a.jsonl", [{"text": text}], "euc_jp")
    with pytest.raises(
        BadData, match=r"can be read as EUC-JP and as CP932 .* set data.encoding to euc-jp or cp932 .* euc-jp is likelier"
    ):
        read(path)
    assert read(path, encoding="euc-jp")[0].content.text == text
    with pytest.raises(BadData, match="EUC-JP that was read as CP932"):
        read(path, encoding="cp932")


def test_bytes_that_a_chunk_cuts_in_two_are_one_character(tmp_path: Path) -> None:
    for codec in ("utf-8", "cp932", "euc_jp"):
        path = tmp_path / "a.txt"
        path.write_bytes(b"x" * (2**20 - 1) + "表示、アンケートの結果".encode(codec) + b"\xff")
        with pytest.raises(DataError) as told:
            encoding.look(path, codec.replace("_", "-"))  # type: ignore[arg-type]
        assert str(2**20 - 1 + len("表示、アンケートの結果".encode(codec))) in told.value.en or codec != "utf-8"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("カ\u3099ス", "not_nfc"),
        ("ｶﾞｽ料金", "half_width_katakana"),
        ("ＶＰＮ", "full_width_alphanumerics"),
        ("外字\ue000", "private_use"),
        ("見えない\u200b文字", "zero_width"),
        ("−5度", "minus_2212"),
    ],
)
def test_forms_of_characters_are_told(text: str, form: str) -> None:
    assert form in set(unicode.forms(text)) and not set(unicode.forms("ガス VPN 5 年、株式会社。"))


@pytest.mark.parametrize(("how", "text"), [("none", "ｶﾞｽＡ①カ\u3099"), ("nfc", "ｶﾞｽＡ①ガ"), ("nfkc", "ガスA1ガ")])
def test_text_is_changed_only_as_data_normalize_says_and_its_hash_never(tmp_path: Path, how: str, text: str) -> None:
    done = prepared(tmp_path, write(tmp_path / "a.jsonl", [{"text": "ｶﾞｽＡ①カ\u3099"}]), normalize=how)
    assert "".join(piece.text for piece in done.report.samples[0].pieces) == f"{text}<eos>"
    assert done.marks == prepared(tmp_path, tmp_path / "a.jsonl").marks and done.report.normalized == (how != "none")
    assert done.report.forms["half_width_katakana"] == done.report.forms["not_nfc"] == 1
