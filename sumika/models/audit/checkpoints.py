"""Checkpoints: signed lines in a file outside the database, saying how far the log went and with which hash.

Whoever can change the database can compute every hash anew; what was signed here before then no longer fits. Each line is
one canonical JSON object: `kind` (`head`: the log reached `seq`; `floor`: everything up to `seq` was pruned), `seq`,
`hash` (of row `seq`), `count` (rows kept then), `at`, `prev` (SHA-256 of the line before; empty in the first) and
`signature` (base64 of the public key's 32 bytes and Ed25519's 64, over the line without it).

A second file, which is replaced each time, says under another signature which line is the newest: whoever cuts lines off, and has neither the
key nor a copy of that file from an earlier moment, can't make it fit.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sumika.models import signing
from sumika.models.audit import canonical
from sumika.models.home import Home, sync_folder, write_atomically

Kind = Literal["head", "floor"]
_LONGEST_LINE = 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    kind: Kind
    seq: int
    hash: str
    count: int
    at: str
    prev: str


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a file of them says. `bad`: the number of the first line that is damaged, missing its predecessor, or not
    signed by one of the keys that are trusted; nothing after it counts. `signers`: fingerprints of who signed."""

    lines: tuple[Checkpoint, ...] = ()
    bad: int | None = None
    signers: frozenset[str] = frozenset()

    @property
    def last(self) -> Checkpoint | None:
        return self.lines[-1] if self.lines else None


def parse(lines: Iterable[bytes], trusted: frozenset[str] | None, after: str = "") -> Checkpoints:
    """Lines as they stand in the file, from the one behind `after` (a line's hash) on. `trusted`: the fingerprints that may have signed;
    None: anybody's count."""
    prev, found, signers = after, list[Checkpoint](), set[str]()
    for number, line in enumerate(lines, start=1):
        checkpoint, signer = _opened(line)
        if checkpoint is None or checkpoint.prev != prev or (trusted is not None and signer not in trusted):
            return Checkpoints(tuple(found), number, frozenset(signers))
        found.append(checkpoint)
        signers.add(signer)
        prev = _name(line)
    return Checkpoints(tuple(found), None, frozenset(signers))


def read(home: Home) -> list[bytes]:
    """The whole lines of the file, oldest first; a last one that a crash cut short is none yet."""
    try:
        data = home.checkpoints.read_bytes()
    except FileNotFoundError:
        return []
    return data.split(b"\n")[:-1]


def trusted(home: Home) -> frozenset[str]:
    """Whose checkpoints count here: the own key's, and those of keys that an administrator trusts for the log."""
    return frozenset(signing.fingerprint(key) for key in signing.trusted_keys(home, "log").values())


def last(home: Home) -> Checkpoint | None:
    """The newest line, unverified, without reading the whole file."""
    line = last_line(home)
    return _opened(line)[0] if line else None


def last_line(home: Home) -> bytes:
    """As it stands in the file; empty where there is none."""
    return _last_line(home.checkpoints)


def opened(line: bytes) -> Checkpoint | None:
    """A line by itself, whoever signed it; None where its signature is no good."""
    return _opened(line)[0]


def reaches_last(home: Home) -> bool:
    """Whether the file ends with the line that was signed last. Where that could not be said of the newest lines (a crash, a full disk),
    those follow it: a copy of an earlier line, or any other, is nothing that could be signed after.

    Raises:
        SumikaError: `bad_key`, for a key file that is none.
    """
    try:
        kept = canonical.load(home.last_checkpoint.read_bytes())
        named, signature = str(kept["checkpoint"]), base64.b64decode(kept["signature"], validate=True)
    except FileNotFoundError:
        return not last_line(home)
    except (ValueError, TypeError, KeyError):
        return False
    key = signing.signer(named.encode(), signature, signing.LAST_CHECKPOINT)
    if key is None or signing.fingerprint(key) not in trusted(home):
        return False
    return _name(last_line(home)) == named or _continues(read(home), named, trusted(home))


def keep_last(home: Home) -> None:
    """Sign that the newest line is the newest, where the whole file is taken for what was signed."""
    if line := last_line(home):
        named = _name(line)
        signature = base64.b64encode(signing.sign(home, named.encode(), signing.LAST_CHECKPOINT)).decode()
        write_atomically(home.last_checkpoint, canonical.dump({"checkpoint": named, "signature": signature}), mode=0o600)


def add(home: Home, kind: Kind, seq: int, hash: str, count: int, at: str) -> bytes:
    """Sign and append one line, on disk when this returns it. The caller holds the file's lock.

    Raises:
        OSError: where it can't be written.
        SumikaError: `bad_key`, as `signing.sign`.
    """
    before = _last_line(home.checkpoints)
    told = asdict(Checkpoint(kind, seq, hash, count, at, _name(before) if before else ""))
    signature = signing.sign(home, canonical.dump(told), signing.CHECKPOINT)
    line = canonical.dump(told | {"signature": base64.b64encode(signature).decode()})
    torn = len(_tail(home.checkpoints).split(b"\n")[-1])  # what a crash left of a line that was being written
    fd = os.open(home.checkpoints, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(fd, "r+b") as file:
        file.seek(-torn, os.SEEK_END)
        file.truncate()
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if not before:
        sync_folder(home.root)
    keep_last(home)
    return line


def _opened(line: bytes) -> tuple[Checkpoint | None, str]:
    """A line and the fingerprint of who signed it; None for one that is not as `add` writes it."""
    try:
        told = canonical.load(line)
        signature = base64.b64decode(told.pop("signature"), validate=True)
        key = signing.signer(canonical.dump(told), signature, signing.CHECKPOINT)
        if key is None or told["kind"] not in ("head", "floor") or type(told["seq"]) is not int:
            return None, ""
        return Checkpoint(**told), signing.fingerprint(key)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, ""


def _continues(lines: list[bytes], named: str, trusted: frozenset[str]) -> bool:
    """Whether all that stands behind the line called `named` was signed in its turn, one line after the other."""
    names = [_name(line) for line in lines]
    if named not in names:
        return False
    begin = names.index(named) + 1
    return parse(lines[begin:], trusted, after=named).bad is None


def _name(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * _LONGEST_LINE))
            tail = file.read()
            if (
                tail.count(b"\n") < 2
            ):  # what is longer than a line of ours is somebody else's, and what lies before it still counts
                file.seek(0)
                tail = file.read()
            return tail
    except FileNotFoundError:
        return b""


def _last_line(path: Path) -> bytes:
    whole = _tail(path).split(b"\n")[:-1]
    return whole[-1] if whole else b""
