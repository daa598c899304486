"""Acts around which rows are told: refusals of short ones, beginning and end of long ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sumika.models.actor import Actor
from sumika.models.audit.actions import Action
from sumika.models.audit.chain import Outcome, append
from sumika.models.errors import SumikaError
from sumika.models.store import Store


@contextmanager
def refusals(store: Store, action: Action, object: str, by: Actor | None = None) -> Iterator[None]:
    """Tell of an act of `by` that is refused: its own transaction is rolled back, and with it what that told.

    What is done tells of itself, in its transaction (`append`).
    """
    try:
        yield
    except SumikaError as error:
        if error.code != "store_unavailable":
            with suppress(SumikaError), store.write(by=by) as connection:  # the refusal stands, told or not
                append(connection, action, object, outcome="refused", reason=error.code)
        raise


@contextmanager
def told(store: Store, action: Action, object: str, by: Actor | None = None, **details: Any) -> Iterator[dict[str, Any]]:
    """An act that takes a while: one row before it begins, one when it has ended. What is put into the yielded dict
    stands in the second.

    Raises:
        SumikaError: what the store raises, before anything was done, when the first row can't be written.
    """
    with store.write(by=by) as connection:
        begun = append(connection, action, object, outcome="asked", details=details)
    result: dict[str, Any] = {"asked": begun}
    try:
        yield result
    except BaseException as error:
        outcome: Outcome = "refused" if isinstance(error, SumikaError) else "failed"
        why = error.code if isinstance(error, SumikaError) else type(error).__name__
        with suppress(SumikaError), store.write(by=by) as connection:
            append(connection, action, object, outcome=outcome, reason=why, details=result)
        raise
    with store.write(by=by) as connection:
        append(connection, action, object, details=result)
