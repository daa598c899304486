"""What a request says of its data, held against what its key may send."""

from __future__ import annotations

from collections.abc import Iterable

from sumika.models.errors import SumikaError
from sumika.models.principals import SENSITIVITIES, USUAL, Principal, Sensitivity, one_of

HEADER = b"x-sumika-sensitivity"


def said(headers: Iterable[tuple[bytes, bytes]]) -> Sensitivity:
    """A request that says nothing counts as `USUAL`.

    Raises:
        SumikaError: `bad_value`, for a header that is none of ours or given twice with different values.
    """
    told = {value for name, value in headers if name == HEADER} or {USUAL.encode()}
    return one_of(SENSITIVITIES, b", ".join(sorted(told)).decode("latin-1"), HEADER.decode())


def check_sensitivity(principal: Principal, headers: Iterable[tuple[bytes, bytes]]) -> Sensitivity:
    """What the request says of its data. Raises SumikaError `bad_value`, as `said`; `sensitivity_refused` (403)."""
    sensitivity = said(headers)
    if not principal.may_send(sensitivity):
        raise SumikaError(
            "sensitivity_refused",
            f"This key may send data up to '{principal.scopes.sensitivity}', and this request is '{sensitivity}'. "
            f"Say what it is ({HEADER.decode()}), or ask your administrator for another key.",
            f"このキーで送信できるのは「{principal.scopes.sensitivity}」までですが、このリクエストは「{sensitivity}」です。"
            f"{HEADER.decode()} で区分を示すか、管理者に別のキーを依頼してください。",
            status=403,
            param=HEADER.decode(),
        )
    return sensitivity
