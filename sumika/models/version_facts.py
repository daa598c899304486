"""All that is known of one version, as the command line and the console tell it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from sumika.models import aliases, canary, manifest, moves, proof, registry, signing
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.manifest import FileEntry
from sumika.models.principals import Principal
from sumika.models.registry import Version

_ALL_MOVES = 10_000


def brief(version: Version, home: Home) -> dict[str, Any]:
    """One version among others. `bytes` is None where its manifest can't be read."""
    folder = home.artifacts / version.folder
    files = _files(version, home)
    return {
        **version.meta,  # first, so that metadata of an archive can't pass for what the registry knows
        "version": str(version.ref), "kind": version.kind, "base": str(version.base) if version.base else None,
        "gate": version.gate, "digest": version.digest, "created_at": version.created_at, "folder": str(folder),
        "bytes": None if files is None else sum(entry.bytes for entry in files.values()),
        "reference": canary.origin(version, folder),
    }  # fmt: skip


def whole(connection: Connection, version: Version, home: Home, seen_by: Principal | None = None) -> dict[str, Any]:
    """Everything: `brief`, its files, adapters on it, reference, and every move to it or away from it. `seen_by`: without what
    is not this one's to see; None: the operator, who sees all."""
    known = aliases.list_all(connection) if seen_by is None else aliases.seen_by(connection, seen_by)
    lives = aliases.lives(connection)
    moved = [
        m
        for m in moves.history(connection, limit=_ALL_MOVES)
        if version.ref in (m.from_ref, m.to_ref) and (seen_by is None or aliases.sees_move(seen_by, m, lives))
    ]
    adapters = [v for v in registry.list_all(connection) if v.base_id == version.id]
    return {
        **brief(version, home),
        "files": [
            {"name": name, "bytes": entry.bytes, "sha256": entry.sha256}
            for name, entry in sorted((_files(version, home) or {}).items())
        ],
        "adapters": [str(v.ref) for v in adapters if seen_by is None or seen_by.may_see(v.owner)],
        "canary": _canary(version, home),
        "signed_by": _signer(version, home),
        "aliases": [a.name for a in known if version.id in (a.version_id, a.canary_id)],
        "moves": [m.shown(seen_by) | {"proof": proof.of(connection, m)} for m in moved],
    }


def _files(version: Version, home: Home) -> dict[str, FileEntry] | None:
    try:
        return manifest.read(home.artifacts / version.folder)
    except SumikaError:  # 'models verify' says what is wrong with it
        return None


def _canary(version: Version, home: Home) -> dict[str, Any] | None:
    """How the reference can tell adapter and base apart; `contrast` in nats a token."""
    try:
        prompts = canary.load(home.artifacts / version.folder)
    except SumikaError:
        return None
    if prompts is None:
        return None
    tokens = [len(prompt.answer_ids) for prompt in prompts]
    contrast = sum(prompt.contrast * n for prompt, n in zip(prompts, tokens, strict=True)) / sum(tokens)
    return {"prompts": len(prompts), "tokens": sum(tokens), "contrast": round(contrast, 3)}


def _signer(version: Version, home: Home) -> dict[str, Any] | None:
    """Who signed the archive that it came in, by the name under which the key is trusted now."""
    imported = version.meta.get("imported")
    if not isinstance(imported, dict) or not isinstance(key := imported.get("key"), str):
        return None
    try:
        names = [name for name, trusted in signing.trusted_keys(home, "archives").items() if signing.fingerprint(trusted) == key]
    except SumikaError:
        names = []
    return {"key": key, "name": names[0] if names else None}
