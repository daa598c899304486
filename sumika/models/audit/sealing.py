"""Contents sealed to a public key whose private half lies elsewhere: who writes them can't read them back.

HPKE (RFC 9180), base mode, one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, as `cryptography`
does it; the request's id is bound in as `info`, so that no content passes for another request's. Inside is zlib over JSON
`{"request": …, "answer": …}`, both as text. Keys are PEM, as OpenSSL reads them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from sumika.models.errors import SumikaError, quoted
from sumika.models.home import write_atomically

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_PURPOSE = b"sumika audit content\0"
_LONGEST_KEY_FILE = 4096


@dataclass(frozen=True, slots=True)
class Content:
    """One request's body and its answer, as they went over the wire; undecodable bytes replaced."""

    request: str
    answer: str


def keygen(file: Path) -> str:
    """Make a key pair: the private half in `file` (0600), the public one in `file` with `.pub` added; its fingerprint.

    Raises:
        SumikaError: `exists`, for either file; OSError: where they can't be written.
    """
    public_file = public_of(file)
    for path in (file, public_file):
        if path.exists():
            raise SumikaError(
                "exists",
                f"'{quoted(str(path))}' is already there, and a key is never replaced: contents sealed to it would be lost. Choose another name.",
                f"「{quoted(str(path))}」はすでにあります。鍵を上書きすると過去の内容を読めなくなるため、別の名前にしてください。",
                status=409,
            )
    key = X25519PrivateKey.generate()
    pem, pkcs8, none = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_atomically(file, key.private_bytes(pem, pkcs8, none), mode=0o600)
    write_atomically(public_file, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    return fingerprint(key.public_key())


def public_of(file: Path) -> Path:
    return file.with_name(file.name + ".pub")


def public_key(file: Path) -> X25519PublicKey:
    """Raises SumikaError `bad_key`."""
    try:
        key = serialization.load_pem_public_key(_read(file))
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, X25519PublicKey):
        raise _bad_key(file, "public", "公開鍵")
    return key


def private_key(file: Path) -> X25519PrivateKey:
    """Raises SumikaError `bad_key`."""
    try:
        key = serialization.load_pem_private_key(_read(file), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, X25519PrivateKey):
        raise _bad_key(file, "private", "秘密鍵")
    return key


def fingerprint(key: X25519PublicKey) -> str:
    """SHA-256 (hex) of the public key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def seal(key: X25519PublicKey, request_id: str, content: Content) -> bytes:
    told = json.dumps({"request": content.request, "answer": content.answer}, ensure_ascii=False)
    packed = zlib.compress(told.encode(errors="replace"), level=1)
    return _SUITE.encrypt(packed, key, _PURPOSE + request_id.encode())


def unseal(key: X25519PrivateKey, request_id: str, sealed: bytes) -> Content:
    """Raises SumikaError `wrong_key`, for another key's content, another request's, or one that was changed."""
    try:
        told = json.loads(zlib.decompress(_SUITE.decrypt(sealed, key, _PURPOSE + request_id.encode())))
        return Content(told["request"], told["answer"])
    except (InvalidTag, ValueError):
        raise SumikaError(
            "wrong_key",
            "This key does not open the row: it was sealed to another one, or changed since. 'sumika audit list --json' shows the fingerprint of the key it needs (details.key).",
            "この鍵では開けません。別の鍵で暗号化されたか、変更されています。必要な鍵の指紋は sumika audit list --json の details.key で確認できます。",
            status=403,
        ) from None


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_LONGEST_KEY_FILE)


def _bad_key(file: Path, what_en: str, what_ja: str) -> SumikaError:
    return SumikaError(
        "bad_key",
        f"'{quoted(str(file))}' holds no X25519 {what_en} key. 'sumika audit keygen FILE' makes a pair: FILE and FILE.pub.",
        f"「{quoted(str(file))}」はX25519の{what_ja}ではありません。sumika audit keygen FILE で鍵の組(FILE と FILE.pub)を作成できます。",
    )
