"""What parts the engines' prefix cache: usage and the time to a first token tell who has sent the same text before."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from sumika.models.principals import Principal, Sensitivity
from sumika.models.secret_file import read_or_create

_KEY_BYTES = 32


class CacheSalts:
    """Salts by the secret in `path`, so that nobody who knows a team's name can tell its salt."""

    def __init__(self, path: Path) -> None:
        self._key = read_or_create(path, lambda: secrets.token_bytes(_KEY_BYTES))

    def of(self, principal: Principal, sensitivity: Sensitivity) -> str:
        """One for each team (for a key without a team, each key) and each class of data: what a request called confidential left in
        the cache is nothing to one that is public."""
        told = f"{sensitivity}\n{principal.owner}".encode()
        return hmac.new(self._key, told, hashlib.sha256).hexdigest()[:32]
