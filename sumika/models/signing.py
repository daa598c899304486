"""Who vouches for an archive, a bundle, a log: this Sumika's own Ed25519 key, and the public keys that an administrator trusts for just that.

Public keys are written as OpenSSH does, one line, so that `ssh-keygen -lf` shows the same fingerprint as Sumika.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sumika.models import locks, sshsig
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home, write_atomically
from sumika.models.names import check_name

SIGNATURE_BYTES = 32 + 64
"""The signer's public key, then its signature."""

# What is signed begins with its purpose, so that no signature made for another passes, nor ours elsewhere.
ARCHIVE = b"sumika archive header\0"
CHECKPOINT = b"sumika audit checkpoint\0"
LAST_CHECKPOINT = b"sumika audit last checkpoint\0"
BACKUP = b"sumika backup manifest\0"

# What a key may be trusted for: models of others, code of others, and checkpoints of this log that an earlier key of ours signed.
Trust = Literal["archives", "bundles", "log"]
TRUSTS: tuple[Trust, ...] = get_args(Trust)
_LONGEST_KEY_FILE = 4096


def sign(home: Home, data: bytes, purpose: bytes = ARCHIVE) -> bytes:
    """The own public key and its signature of `data`; the key pair is made the first time.

    Raises:
        SumikaError: `bad_key`, when the key file is no Ed25519 key.
    """
    key = _own(home)
    return key.public_key().public_bytes_raw() + key.sign(purpose + data)


def sign_for_ssh(home: Home, data: bytes, namespace: str) -> str:
    """What `ssh-keygen -Y verify -n NAMESPACE` takes, for machines that have no Sumika yet.

    Raises:
        SumikaError: `bad_key`, when the key file is no Ed25519 key.
    """
    return sshsig.armored(_own(home), data, namespace)


def check(home: Home, data: bytes, signature: bytes) -> str:
    """The fingerprint of the trusted key that signed `data`.

    Raises:
        SumikaError: `bad_signature`; `untrusted_key`, for a good signature by a stranger; `bad_key`.
    """
    key = signer(data, signature, ARCHIVE)
    if key is None:
        raise SumikaError(
            "bad_signature",
            "The archive's signature does not fit its contents: it was damaged or changed after it was signed. Copy it again from where it was exported.",
            "アーカイブの署名が内容と一致しません。署名後に破損または変更されています。書き出し元からコピーし直してください。",
        )
    found = fingerprint(key)
    if found not in {fingerprint(trusted) for trusted in trusted_keys(home, "archives").values()}:
        raise SumikaError(
            "untrusted_key",
            f"The archive is signed by {found}, which is not trusted here. If 'sumika signing show' prints this fingerprint where it was exported, bring that key and run 'sumika signing trust FILE NAME --for archives'.",
            f"このアーカイブは信頼されていない鍵 {found} で署名されています。書き出し元の sumika signing show で同じ指紋を確認し、その公開鍵を sumika signing trust FILE NAME --for archives で登録してください。",
            status=403,
        )
    return found


def signer(data: bytes, signature: bytes, purpose: bytes) -> Ed25519PublicKey | None:
    """Whose good signature of `data` this is, trusted or not; None where it is no good one."""
    try:
        key = Ed25519PublicKey.from_public_bytes(signature[:32])
        key.verify(signature[32:], purpose + data)
    except (ValueError, InvalidSignature):
        return None
    return key


def show(home: Home) -> Ed25519PublicKey:
    """The own public key, made the first time."""
    return _own(home).public_key()


def trust(home: Home, text: str, name: str, purpose: Trust = "archives") -> Ed25519PublicKey:
    """Trust from now on, for `purpose` alone, what is signed with this public key (one OpenSSH line, as `line` gives it).

    Raises:
        SumikaError: `bad_name`; `bad_key`; `exists`, when `name` is already another key's.
    """
    check_name(name)
    key = _parse(text.encode(errors="replace"), "the key that was given", "指定された鍵")
    path = _trusted_folder(home) / purpose / f"{name}.pub"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.held(home.root / "signing.lock"):
        if path.exists() and fingerprint(_read_public(path)) != fingerprint(key):
            raise SumikaError(
                "exists",
                f"'{name}' is already the name of another trusted key. Choose another name, or delete {path} to end that trust.",
                f"「{name}」は別の信頼済みの鍵の名前です。別の名前にするか、{path} を削除して信頼を取り消してください。",
                status=409,
            )
        write_atomically(path, f"{line(key)} {name}\n".encode(), mode=0o600)
    return key


def trusted_keys(home: Home, purpose: Trust) -> dict[str, Ed25519PublicKey]:
    """Every key that is trusted for `purpose`, by its name; the own one, where there is one, by the empty name.

    Raises:
        SumikaError: `bad_key`, naming a file under `trusted/` that holds no key.
    """
    found = {path.stem: _read_public(path) for path in sorted((_trusted_folder(home) / purpose).glob("*.pub"))}
    return found | ({"": show(home)} if _own_file(home).exists() else {})


def sort_trust(home: Home) -> None:
    """Keys that were trusted before trust had a purpose are trusted for archives from now on, and for nothing else."""
    folder = _trusted_folder(home)
    for path in sorted(folder.glob("*.pub")):
        (folder / "archives").mkdir(mode=0o700, exist_ok=True)
        with locks.held(home.root / "signing.lock"):
            if path.exists():
                os.replace(path, folder / "archives" / path.name)


def named(text: str) -> str:
    """The fingerprint that `text` is, or that of the public key that it is.

    Raises:
        SumikaError: `bad_key`.
    """
    if text.startswith("SHA256:"):
        return text.strip().rstrip("=")
    return fingerprint(_parse(text.encode(errors="replace"), "the key that was given", "指定された鍵"))


def line(key: Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def fingerprint(key: Ed25519PublicKey) -> str:
    """As OpenSSH writes it: SHA256: and 43 letters."""
    hashed = hashlib.sha256(base64.b64decode(line(key).split()[1])).digest()
    return "SHA256:" + base64.b64encode(hashed).decode().rstrip("=")


def _own_file(home: Home) -> Path:
    return home.root / "signing.key"


def _own(home: Home) -> Ed25519PrivateKey:
    path = _own_file(home)
    with locks.held(home.root / "signing.lock"):  # of two first uses at once, both get the same key
        if not path.exists():
            made = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_atomically(path, made, mode=0o600)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad_key(str(path), str(path))
    return key


def _trusted_folder(home: Home) -> Path:
    return home.root / "trusted"


def _read_public(path: Path) -> Ed25519PublicKey:
    with path.open("rb") as file:
        return _parse(file.read(_LONGEST_KEY_FILE + 1), str(path), str(path))


def _parse(text: bytes, what_en: str, what_ja: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_ssh_public_key(text.strip()) if len(text) <= _LONGEST_KEY_FILE else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise _bad_key(what_en, what_ja)
    return key


def _bad_key(what_en: str, what_ja: str) -> SumikaError:
    return SumikaError(
        "bad_key",
        f"{quoted(what_en)} is no Ed25519 key. A public key is one line, 'ssh-ed25519 AAAA…', as 'sumika signing show' prints it.",
        f"{quoted(what_ja)} はEd25519の鍵ではありません。公開鍵は sumika signing show が表示する「ssh-ed25519 AAAA…」の1行です。",
    )
