"""What this installation is made of: its packages and models with their licences, as CycloneDX 1.6 tells it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageMetadata, distributions

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from sumika.models.registry import Version

UNKNOWN = ""
_LONGEST_NAME = 100
_CLASSIFIER = "License :: "
_US = "sumika"


def packages() -> dict[str, Distribution]:
    """What is installed beside this program, by canonical name."""
    return {canonicalize_name(found.name): found for found in distributions()}


def licence(metadata: PackageMetadata) -> str:
    """How a package names its licence: an SPDX expression where it has one, else its own short word for it, else its classifiers'."""
    for field in ("License-Expression", "License"):
        told = (metadata[field] if field in metadata else UNKNOWN).strip().splitlines()
        if told and len(told[0]) <= _LONGEST_NAME and told[0] != "UNKNOWN":
            return told[0].strip()
    classified = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if line.startswith(_CLASSIFIER)]
    return " AND ".join(sorted(set(classified))) if classified else UNKNOWN


def licences_of_models(versions: Iterable[Version]) -> dict[str, str]:
    """Reference of a version → the licence that its catalog entry named."""
    return {str(version.ref): str(version.meta.get("licence", {}).get("id", UNKNOWN)) for version in versions}


def bill(installed: Mapping[str, Distribution], versions: Iterable[Version]) -> str:
    """A software bill of materials in JSON (ECMA-424, CycloneDX 1.6), without a moment or a random number: the same things make the same bill.

    A package is told with its package URL, a model with the SHA-256 over its files.
    """
    known = dict(installed)
    us = known.pop(_US, None)
    bom = Bom(version=1)
    root = Component(type=ComponentType.APPLICATION, name=_US, version=us.version if us else None, bom_ref=_US)
    bom.metadata.component = root
    components = {name: _package(name, found) for name, found in sorted(known.items())}
    models = [_model(version) for version in versions]
    for component in (*components.values(), *models):
        bom.components.add(component)
    for name, component in components.items():
        bom.register_dependency(component, [components[needed] for needed in _needs(known[name]) if needed in components])
    direct = [components[needed] for needed in _needs(us) if needed in components] if us else []
    bom.register_dependency(root, [*direct, *models])
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _package(name: str, found: Distribution) -> Component:
    url = PackageURL("pypi", None, name, found.version)
    named = licence(found.metadata)
    return Component(
        type=ComponentType.LIBRARY, name=name, version=found.version, purl=url, bom_ref=str(url), licenses=[_licence(named)] if named else [],
    )  # fmt: skip


def _model(version: Version) -> Component:
    named = licences_of_models([version])[str(version.ref)]
    lineage = [Property(name="sumika:base", value=str(version.base))] if version.base else []
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL, name=version.ref.name, version=str(version.ref.number), bom_ref=f"model:{version.ref}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=version.digest)], licenses=[_licence(named)] if named else [], properties=lineage,
    )  # fmt: skip


def _licence(name: str) -> DisjunctiveLicense:
    """By its SPDX id where it is one; other names, and expressions of several, stand as they are."""
    made = LicenseFactory().make_from_string(name)
    return made if isinstance(made, DisjunctiveLicense) else DisjunctiveLicense(name=name)


def _needs(found: Distribution) -> list[str]:
    """Names of what a package asks for, extras aside."""
    names = set()
    for line in found.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if not re.search(r"\bextra\b", str(requirement.marker or "")):
            names.add(canonicalize_name(requirement.name))
    return sorted(names)
