"""What a browser carries from `/auth/login` to `/auth/callback`: sealed, so that it can neither be read nor made elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken

from sumika.models.secret_file import read_or_create

# Signing in takes a person and a second factor; longer than this is somebody else's ticket.
LIFE_S = 600
HOME = "/"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One sign-in under way: at which issuer, with which random values, and where it leads back to."""

    issuer: str
    state: str
    nonce: str
    verifier: str
    next: str

    @classmethod
    def new(cls, issuer: str, next: str) -> Ticket:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(issuer, state, nonce, verifier, own_path(next))

    @property
    def challenge(self) -> str:
        """PKCE's S256 of the verifier (RFC 7636)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Tickets:
    """Seals and opens tickets with the key in `path`, which all workers of a home share."""

    def __init__(self, path: Path) -> None:
        self._fernet = Fernet(login_key(path))

    def seal(self, ticket: Ticket) -> str:
        return self._fernet.encrypt(json.dumps(asdict(ticket)).encode()).decode()

    def open(self, sealed: str) -> Ticket | None:
        """None for one that is not ours, changed, or older than `LIFE_S`."""
        try:
            return Ticket(**json.loads(self._fernet.decrypt(sealed.encode(errors="replace"), ttl=LIFE_S)))
        except (InvalidToken, ValueError, TypeError):
            return None


def own_path(text: str) -> str:
    """`text`, where it is a path on this site; else the home page. Browsers take '//x', '/\\x' and 'https:x' for other sites."""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isascii() or not text.isprintable():
        return HOME
    parts = urlsplit(text)
    return text if not parts.scheme and not parts.netloc and " " not in text and len(text) <= 512 else HOME


def login_key(path: Path) -> bytes:
    """Made where it is missing."""
    return read_or_create(path, Fernet.generate_key)
