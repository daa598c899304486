"""Text that was decoded wrongly before it came here: refused, since no model should learn 縺薙ｓ縺ｫ縺｡縺ｯ."""

from __future__ import annotations

import re

from sumika.finetune.data.problems import DataError

# Each pattern, and how such text comes about. The lead bytes of UTF-8 kana (E3 80 … E3 83) read as CP932 give 縲 縺 繧 繝,
# rare characters in any real text; UTF-8 read as Latin-1 gives Ã, ã, â … followed by a character of the range 80-BF.
_SIGNS = (
    (re.compile("\ufffd"), "U+FFFD, left by a wrong decoding", "U+FFFD(誤った復号の跡)"),
    (re.compile("(?:[縲縺繧繝].{0,2}){2}", re.DOTALL), "UTF-8 that was read as CP932", "CP932として読まれたUTF-8の文字化け"),
    (
        re.compile("Ã[\u0080-\u009f\u00a1-\u00bf]|(?:[ÂÃâãåæçèé][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]{1,2}){2}"),
        "UTF-8 that was read as Latin-1",
        "Latin-1として読まれたUTF-8の文字化け",
    ),
    (re.compile("(?:[､･](?:[｡-ﾟ]|[\ue000-\uf8ff][｡-ﾟ]?|[一-龥][｡-ﾟ])){4}"), "EUC-JP that was read as CP932", "CP932として読まれたEUC-JPの文字化け"),
    (re.compile("(?:[¤¥][\u00a1-\u00fe]){3}"), "EUC-JP that was read as Latin-1", "Latin-1として読まれたEUC-JPの文字化け"),
    (re.compile("[\u0080-\u0084\u0086-\u009f]"), "a control character of the range U+0080-9F, left by a wrong decoding", "制御文字U+0080〜9F(誤った復号の跡)"),
)  # fmt: skip


_FOREIGN = re.compile("[^\0-\x7f]{3,}")
_ASIAN = re.compile("[\u3040-\u9fff]")


def refuse(text: str) -> None:
    """Raises DataError for mojibake, half a surrogate pair, and NUL."""
    if "\0" in text:
        raise DataError("holds a NUL character; take it out", "NUL文字を含みます。取り除いてください")
    if text.isascii():
        return
    for sign, en, ja in _SIGNS:
        if sign.search(text):
            raise _decoded_wrongly(en, ja)
    if any(map(_is_utf8_as_cp932, _FOREIGN.findall(text))):
        raise _decoded_wrongly(*_SIGNS[1][1:])
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(
            "holds half a surrogate pair, left by cutting an emoji; mend that character",
            "サロゲートペアの片方だけが残っています(絵文字などが途中で切れた跡)。その文字を直してください",
        )


def _is_utf8_as_cp932(run: str) -> bool:
    """Whether the bytes of `run` in CP932 are UTF-8 of Japanese (隲区ｱよ嶌 are those of 請求書): no real text is, by chance."""
    try:
        return len(_ASIAN.findall(run.encode("cp932").decode("utf-8"))) > 1
    except UnicodeError:
        return False


def _decoded_wrongly(en: str, ja: str) -> DataError:
    return DataError(f"holds {en}; export the data again as UTF-8", f"{ja}を含みます。元のデータをUTF-8で出力し直してください")
