"""Which alias a request may mean, and what one that means none is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal, Scopes
from sumika.serving.directory import Route, Snapshot, Target
from sumika.serving.placing import resolve

TARGET = Target("base@1", "base", 1, "chat", False, False, None, None)  # type: ignore[arg-type]
ALL = Principal("key_1", "all", "app")


def snapshot(*names: str) -> Snapshot:
    return Snapshot(routes={name: Route(name, TARGET, datetime.now(UTC)) for name in names})


def refusal(seen: Snapshot, who: Principal, alias: str) -> SumikaError:
    with pytest.raises(SumikaError) as caught:
        resolve(seen, who, alias)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    return caught.value


@pytest.mark.parametrize("asked", ["sakura-fap", "SAKURA-FAQ", "sakurafaq", "ｓａｋｕｒａ-ｆａｑ", "sakura-faq@2"])
def test_who_mistypes_a_model_is_told_what_they_may_have_meant(asked: str) -> None:
    error = refusal(snapshot("sakura-faq", "gemma"), ALL, asked)
    assert "Did you mean 'sakura-faq'?" in error.en and "「sakura-faq」のことですか" in error.ja
    assert "gemma, sakura-faq" in error.en and "gemma, sakura-faq" in error.ja


def test_what_a_key_may_not_use_is_named_nowhere() -> None:
    scoped = Principal("key_1", "one", "app", None, Scopes(aliases=frozenset({"gemma", "gone"})))
    seen = snapshot("sakura-faq", "gemma")
    assert refusal(seen, scoped, "sakura-faq").en.replace("sakura-faq", "x") == refusal(seen, scoped, "x").en
    error = refusal(seen, scoped, "sakura-fap")
    assert "sakura-faq" not in error.en + error.ja and "may use gemma." in error.en
    nothing = Principal("key_1", "none", "app", None, Scopes(aliases=frozenset({"gone"})))
    assert "gemma" not in refusal(seen, nothing, "gemm").en


def test_list_is_bounded_however_many_there_are_and_however_long_the_name() -> None:
    error = refusal(snapshot(*(f"model-{n:04d}" for n in range(3_000))), ALL, "x" * 100_000)
    assert len(error.en) < 700 and "2990 more" in error.en and "2990 件" in error.ja
