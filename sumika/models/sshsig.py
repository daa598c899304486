"""Signatures that `ssh-keygen -Y verify` checks, so that a machine without Sumika can tell who made a file.

Format: OpenSSH's PROTOCOL.sshsig. Each string is its length in four bytes, then its bytes.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAGIC = b"SSHSIG"
_VERSION = (1).to_bytes(4, "big")
_HASH = b"sha512"
_KIND = b"ssh-ed25519"
_WIDTH = 70


def armored(key: Ed25519PrivateKey, data: bytes, namespace: str) -> str:
    """The signature of `data` for one purpose, `namespace`, as the lines of a .sig file."""
    purpose = _string(namespace.encode()) + _string(b"") + _string(_HASH)
    signature = key.sign(_MAGIC + purpose + _string(hashlib.sha512(data).digest()))
    public = _string(_KIND) + _string(key.public_key().public_bytes_raw())
    blob = _MAGIC + _VERSION + _string(public) + purpose + _string(_string(_KIND) + _string(signature))
    lines = textwrap.wrap(base64.b64encode(blob).decode(), _WIDTH)
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
