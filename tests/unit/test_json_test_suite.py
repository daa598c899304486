"""What JSONTestSuite calls no JSON is `invalid_json`, and what it leaves open has a recorded answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from sumika.models.errors import SumikaError
from sumika.serving import requests
from tests.conftest import ROOT

CASES = sorted((ROOT / "tests" / "data" / "json_test_suite").glob("*.json"))
# JSON by the grammar, and refused all the same: two readers may take two different values from it.
REPEATED = {"y_object_duplicated_key", "y_object_duplicated_key_and_value"}
READ = {"i_number_double_huge_neg_exp", "i_number_real_underflow", "i_number_too_big_pos_int", "i_number_too_big_neg_int"}


def code(case: Path) -> str:
    """None of them is a request, so the answer is never a body."""
    with pytest.raises(SumikaError) as told:
        requests.parse(requests.ChatRequest, case.read_bytes())
    assert told.value.status == 400 and len(told.value.en) < 500
    return told.value.code


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("n_")], ids=lambda case: case.stem)
def test_what_is_no_json_is_refused(case: Path) -> None:
    assert code(case) == "invalid_json"


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("y_")], ids=lambda case: case.stem)
def test_json_is_read(case: Path) -> None:
    assert (code(case) == "invalid_json") == (case.stem in REPEATED)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("i_")], ids=lambda case: case.stem)
def test_of_what_is_left_open_only_numbers_that_are_not_infinite_are_read(case: Path) -> None:
    """Text must be UTF-8 without a mark and without halves of surrogate pairs; an integer must fit into 128 bits, and what
    is too small for a double is 0 to every reader."""
    assert (code(case) == "invalid_json") != (case.stem in READ)


def test_suite_is_whole() -> None:
    assert len(CASES) == 318
