"""From a record as it stands in the file to the one that is trained on: forms counted, normalised, personal data dealt with."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from sumika.finetune.data import language, pii, unicode
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Content, Row
from sumika.finetune.data.settings import Data

_NAMES: dict[pii.Kind, tuple[str, str]] = {
    "card": ("a card number", "カード番号"),
    "my_number": ("an Individual Number (My Number)", "個人番号(マイナンバー)"),
    "phone": ("a phone number", "電話番号"),
    "email": ("an e-mail address", "メールアドレス"),
    "secret": ("an API key or other secret", "APIキーなどの秘密情報"),
    "control_token": ("a control token of the base", "ベースモデルの制御トークン"),
}


@dataclass(slots=True)
class Cleaner:
    """Counts by row as it goes; `found` counts personal data by the piece. `control_tokens`: the base's (`pii.any_of`)."""

    data: Data
    control_tokens: re.Pattern[str] | None = None
    languages: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    found: Counter[pii.Kind] = field(default_factory=Counter)
    found_rows: Counter[pii.Kind] = field(default_factory=Counter)

    def clean(self, row: Row[Content]) -> Row[Content]:
        """Raises DataError for personal data that blocks, showing its kind and all but its end hidden."""
        texts = [text for _, text in row.content.texts()]
        self.languages[language.of("\n".join(texts))] += 1
        self.forms.update({form for text in texts for form in unicode.forms(text)})
        content = row.content.mapped(lambda text: unicode.normalized(text, self.data.normalize))
        self.changed += content != row.content
        self._count(content)
        # As long as nothing of it is masked, the record's own text stays as it is.
        facts = tuple(tuple(map(self._masked, one)) for one in row.facts)
        return Row(content.mapped(self._masked), row.where, row.hash, facts)

    def _count(self, content: Content) -> None:
        here: set[pii.Kind] = set()
        blocking = []
        for where, text in content.texts():
            for one in pii.find(text, self.control_tokens):
                self.found[one.kind] += 1
                here.add(one.kind)
                if self._action(one) == "block":
                    blocking.append((where, one, one.hidden(text)))
        self.found_rows.update(here)
        if blocking:
            where, one, hidden = blocking[0]
            more = len(blocking) - 1
            (en, ja), key = _NAMES[one.kind], f"data.pii.{one.kind}"
            raise DataError(
                f"{where} holds {en} ({hidden}){f' and {more} more' if more else ''}; take it out, or set {key} to mask or allow",
                f"{where} に{ja}({hidden})があります{f'(ほか {more} 件)' if more else ''}。取り除くか、{key} を mask か allow にしてください",
            )

    def _masked(self, text: str) -> str:
        return pii.masked(text, [one for one in pii.find(text, self.control_tokens) if self._action(one) == "mask"])

    def _action(self, one: pii.Found) -> str:
        return str(getattr(self.data.pii, one.kind))
