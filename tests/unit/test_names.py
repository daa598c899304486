from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumika.models.errors import SumikaError, quoted
from sumika.models.names import NAME, VersionRef, check_name

BAD = [
    "", ".", "..", "a/b", "../../x", "/etc/passwd", "C:\\x", "a..b", "con", "latest", "LATEST", "v1 ", " v1", "x.", "a\x00", "a\n",
    "名前", "ｔａｌｋ", "\u0440", "a\u200db", "😀", "a" * 65, "-a", "_a", ".a", "A", "か\u3099",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_name_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(SumikaError) as told:
        check_name(name)
    assert told.value.code == "bad_name" and told.value.ja != told.value.en


@pytest.mark.parametrize("name", ["a", "gemma-3-270m", "sakura-faq", "x.y_z-1", "0", "a" * 64])
def test_name_of_the_plain_kind_is_taken(name: str) -> None:
    assert check_name(name) == name


@given(st.from_regex(NAME, fullmatch=True), st.integers(1, 999_999_999))
def test_version_written_and_read_is_itself(name: str, number: int) -> None:
    try:
        check_name(name)
    except SumikaError:
        return
    assert VersionRef.parse(str(VersionRef(name, number))) == VersionRef(name, number)


@pytest.mark.parametrize(
    "text", ["a", "a@", "a@0", "a@-1", "a@01", "a@1.0", "a@x", "@1", "a@1@2", "a@１", "a@ 1", "a@" + "9" * 30]
)
def test_version_not_written_name_at_number_is_refused(text: str) -> None:
    with pytest.raises(SumikaError):
        VersionRef.parse(text)


@given(st.text())
def test_text_repeated_in_a_message_is_short_and_one_line(text: str) -> None:
    shown = quoted(text)
    assert len(shown) <= 200 and shown.isprintable()
