"""Settings of the MLflow servers that an administrator lists, each with the credentials that it alone is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, field_validator, model_validator

from sumika.models import addresses
from sumika.models.errors import SumikaError

_LARGEST_SECRET = 64 * 1024


class TrackingServer(BaseModel):
    """`name` is what a job's `track.mlflow` says. `token_file`: a bearer token; or `username` and `password_file`. `ca_file`:
    the certificates that sign its TLS, where they are the company's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    url: str
    token_file: Path | None = None
    username: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,256}$")] | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        addresses.parse(url)
        return url

    @model_validator(mode="after")
    def _one_kind_of_credentials(self) -> TrackingServer:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if self.token_file is not None and self.username is not None:
            raise ValueError("a server takes a token or a user and password, not both")
        return self

    @property
    def token(self) -> str | None:
        """Raises SumikaError `tracking_failed`."""
        return None if self.token_file is None else self._secret(self.token_file)

    @property
    def password(self) -> str | None:
        """Raises SumikaError `tracking_failed`."""
        return None if self.password_file is None else self._secret(self.password_file)

    @property
    def files(self) -> list[Path]:
        """What a training that sends figures there reads."""
        return [file for file in (self.token_file, self.password_file, self.ca_file) if file is not None]

    def _secret(self, file: Path) -> str:
        try:
            with file.expanduser().open("rb") as opened:
                text = opened.read(_LARGEST_SECRET).decode("ascii").strip()
        except (OSError, ValueError):
            text = ""
        if not text.isprintable() or not text:
            raise SumikaError(
                "tracking_failed",
                f"The credentials of the tracking server '{self.name}' can't be read; an administrator must correct finetune.tracking.",
                f"トラッキングサーバー「{self.name}」の認証情報を読めません。管理者が finetune.tracking を直してください。",
            )
        return text
