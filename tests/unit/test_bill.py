"""The bill of materials: valid by the format's own schema, complete, and the same each time."""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from sumika.cli import bill
from sumika.models import importing, registry
from sumika.models.bootstrap import open_store
from sumika.models.registry import Version
from sumika.models.settings import Settings
from tests.conftest import write_base


@pytest.fixture
def versions(tmp_path: Path) -> list[Version]:
    settings = Settings(home=tmp_path / "home")
    store = open_store(settings)
    importing.import_base(store, settings.layout, "base", write_base(tmp_path / "base"), meta={"licence": {"id": "Apache-2.0"}})
    importing.import_base(
        store, settings.layout, "own", write_base(tmp_path / "own", seed=1), meta={"licence": {"id": "Gemma Terms of Use"}}
    )
    with store.read() as connection:
        return registry.list_all(connection)


def test_bill_fits_the_schema_and_holds_every_package_and_model(versions: list[Version]) -> None:
    text = bill.bill(bill.packages(), versions)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    libraries = {one["name"]: one for one in told["components"] if one["type"] == "library"}
    assert libraries.keys() == {canonicalize_name(found.name) for found in distributions()} - {"sumika"}
    assert libraries["fastapi"]["purl"].startswith("pkg:pypi/fastapi@") and libraries["fastapi"]["licenses"] == [
        {"license": {"id": "MIT"}}
    ]
    models = {one["name"]: one for one in told["components"] if one["type"] == "machine-learning-model"}
    assert models["base"]["hashes"] == [{"alg": "SHA-256", "content": versions[0].digest}] and models["base"]["licenses"] == [
        {"license": {"id": "Apache-2.0"}}
    ]
    assert models["own"]["licenses"] == [{"license": {"name": "Gemma Terms of Use"}}]
    needs = {one["ref"]: one.get("dependsOn", []) for one in told["dependencies"]}
    assert "model:base@1" in needs["sumika"] and any(
        ref.startswith("pkg:pypi/starlette@") for ref in needs[libraries["fastapi"]["bom-ref"]]
    )


def test_licence_is_read_wherever_a_package_tells_it() -> None:
    from email.message import Message

    def of(**fields: str) -> str:
        metadata = Message()
        for name, value in fields.items():
            metadata[name.replace("_", "-")] = value
        return bill.licence(metadata)  # type: ignore[arg-type]

    assert of(License_Expression="MIT OR Apache-2.0", License="x") == "MIT OR Apache-2.0"
    assert of(License="MIT License\n\nCopyright (c) …") == "MIT License"
    assert of(License="UNKNOWN", Classifier="License :: OSI Approved :: BSD License") == "BSD License"
    assert of(License="x" * 200) == of() == bill.UNKNOWN
