"""Whose things are: what of a table somebody sees, and whether one row of it is theirs to see.

Rows have an `owner` (`Principal.owner`); those that hold somebody's data also a `sensitivity`, those that are made for an alias
its name. What is another's is answered as what does not exist; what is one's own but too confidential for the key says so.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, or_

from sumika.models.errors import SumikaError
from sumika.models.principals import SENSITIVITIES, Principal, Sensitivity


def seen_by(table: Table, who: Principal) -> list[ColumnElement[bool]]:
    """What a list of `table` leaves in for `who`; a row without owner is everybody's."""
    columns = table.c
    found: list[ColumnElement[bool]] = []
    if who.role != "admin":
        found.append(or_(columns.owner.is_(None), columns.owner == who.owner))
    if "sensitivity" in columns:
        found.append(columns.sensitivity.in_([level for level in SENSITIVITIES if who.may_send(level)]))
    if "alias" in columns and who.scopes.aliases is not None:
        found.append(columns.alias.in_(sorted(who.scopes.aliases)))
    return found


def check_cleared(who: Principal, what: str, sensitivity: Sensitivity) -> None:
    """Raises SumikaError `sensitivity_refused` (403), where `what` holds more confidential data than the key may handle."""
    if not who.may_send(sensitivity):
        raise SumikaError(
            "sensitivity_refused",
            f"This key may handle data up to '{who.scopes.sensitivity}', and {what} is '{sensitivity}'. Ask your administrator for another key.",
            f"このキーで扱えるのは「{who.scopes.sensitivity}」までですが、{what} は「{sensitivity}」です。管理者に別のキーを依頼してください。",
            status=403,
        )


def most(first: Sensitivity, *others: Sensitivity) -> Sensitivity:
    """The most confidential of several."""
    return max(first, *others, key=SENSITIVITIES.index) if others else first


def owned(row: Any, who: Principal) -> bool:
    """Whether `row` (with `owner`, perhaps `alias`) is there for `who`."""
    alias = getattr(row, "alias", None)
    scoped = hasattr(row, "alias") and who.scopes.aliases is not None
    return who.may_see(row.owner) and not (scoped and (alias is None or not who.may_use(alias)))
