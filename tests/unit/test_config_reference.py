"""What editors and people are told of a job's keys is what the models say: schema.json, docs/finetune.md, the sample."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from sumika.cli import main
from sumika.finetune.config import JobConfig
from tests.conftest import ROOT

SCHEMA = ROOT / "configs" / "finetune" / "schema.json"
PAGE = ROOT / "docs" / "finetune.md"
SAMPLE = ROOT / "configs" / "finetune" / "sakura-faq.yaml"


def keys(schema: dict[str, Any], at: str = "", of: dict[str, Any] | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Every key with its values, its default and what it does."""
    of = of or schema
    for name, field in of["properties"].items():
        key, inner = f"{at}{name}", group(schema, field)
        told = field.get("description") or (inner or {}).get("description", "")
        default = "**required**" if name in of.get("required", []) else shown(field.get("default"))
        if inner is None or name == "columns":
            yield key, values(schema, field), default, told
            continue
        if "description" in field or field.get("default", {}) is None:
            yield key, values(schema, field), default, told
        yield from keys(schema, f"{key}.", inner)


def shown(default: Any) -> str:
    """A group's own default is that of its keys."""
    return "" if isinstance(default, dict) and default else f"`{json.dumps(default, ensure_ascii=False)}`"


def group(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The group that a field is, or is a list of, or may be."""
    branches = [field, *field.get("anyOf", [])]
    for one in [
        *branches,
        *(inner for branch in branches for inner in [branch.get("items", {}), *branch.get("items", {}).get("anyOf", [])]),
    ]:
        if "$ref" in one and "properties" in (found := schema["$defs"][one["$ref"].rpartition("/")[2]]):
            return dict(found)
    return None


def values(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(values(schema, one) for one in field["anyOf"]))
    if "$ref" in field:
        found = schema["$defs"][field["$ref"].rpartition("/")[2]]
        return "a group" if "properties" in found else values(schema, found)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if field.get("type") == "array":
        return f"list of {values(schema, field['items'])}".replace("list of a group", "list of groups")
    if field.get("type") == "object":
        return f"name: {values(schema, field['additionalProperties'])}"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}
    words = {"minimum": "≥ {:,}", "exclusiveMinimum": "> {:,}", "maximum": "≤ {:,}", "exclusiveMaximum": "< {:,}"}
    kind = "path" if field.get("format") == "path" else names[field["type"]]
    bounds = ", ".join(words[word].format(field[word]) for word in words if word in field)
    return f"{kind} {bounds}".strip()


def table() -> str:
    rows = [f"| `{key}` | {takes} | {default} | {told} |" for key, takes, default, told in keys(JobConfig.model_json_schema())]
    return "\n".join(["| key | takes | default | what it does |", "| --- | --- | --- | --- |", *rows]) + "\n"


def test_schema_for_editors_is_current() -> None:
    told = CliRunner().invoke(main.build(), ["finetune", "schema"])
    assert told.exit_code == 0
    assert SCHEMA.read_text(encoding="utf-8") == told.stdout, "sumika finetune schema > configs/finetune/schema.json"
    assert "# yaml-language-server: $schema=schema.json\n" in SAMPLE.read_text(encoding="utf-8")


def test_page_says_of_every_key_what_the_models_say() -> None:
    said = re.search(r"^\| key \|.*?\n(?=\n|\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert said is not None and said[0] == table(), f"docs/finetune.md needs this table:\n{table()}"


def test_every_key_is_described() -> None:
    assert [key for key, _, _, told in keys(JobConfig.model_json_schema()) if not told] == []


@pytest.mark.parametrize("key", [key for key, *_ in keys(JobConfig.model_json_schema())])
def test_sample_names_every_key(key: str) -> None:
    """Set, or behind '#'; those of columns and sources stand in docs/finetune-data.md."""
    page = (ROOT / "docs" / "finetune-data.md").read_text(encoding="utf-8")
    text = page if key.startswith(("data.columns.", "data.train.")) else SAMPLE.read_text(encoding="utf-8")
    assert re.search(rf"\b{key.rpartition('.')[2]}\b", text)
