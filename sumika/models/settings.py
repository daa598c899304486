"""Settings: `configs/sumika.yaml`, then the environment (`SUMIKA_PORT`, `SUMIKA_ENGINE__MAX_LORAS`, ...), which wins."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sumika.models import yamlfile
from sumika.models.home import Home
from sumika.models.oidc_settings import OidcSettings
from sumika.models.telemetry_settings import TelemetrySettings
from sumika.models.tracking_settings import TrackingServer

PREFIX = "SUMIKA_"
DEFAULT_FILE = Path("configs/sumika.yaml")
PRICES_FILE = DEFAULT_FILE.with_name("prices.yaml")
# Read by the command line and the tests, not settings.
_NOT_SETTINGS = ("SUMIKA_CONFIG", "SUMIKA_TEST_", "SUMIKA_LANG", "SUMIKA_API_KEY")
_DEFAULT_SECRETS = frozenset({"password", "passwd", "postgres", "changeme", "changethis", "secret", "admin", "sumika", "example"})

WITNESS = r"^(file:/.+|syslog:/.+|syslog:(udp|tcp)://[^/:\s]+(:[0-9]{1,5})?)$"
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class EngineSettings(BaseModel):
    """How vLLM is started; sizes that a base needs differently stand in its catalog entry, which goes first."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    command: list[NonEmpty] = Field(
        default_factory=lambda: [sys.executable, "-m", "vllm.entrypoints.openai.api_server"], min_length=1
    )
    # Of trainings too.
    sandbox: Literal["auto", "bubblewrap", "landlock", "none"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    start_timeout_s: float = Field(default=900, gt=0)
    stop_timeout_s: float = Field(default=30, ge=0)
    drain_timeout_s: float = Field(default=120, ge=0)
    liveness_every_s: float = Field(default=4, gt=0)
    liveness_timeout_s: float = Field(default=30, gt=0)
    # None: chosen from memory and the base's size when its engine starts (serving/lora_slots.py).
    max_loras: int | None = Field(default=None, ge=1, le=64)
    max_cpu_loras: int | None = Field(default=None, ge=1, le=4096)
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 16
    cpu_kv_cache_gib: int = Field(default=2, ge=1)
    memory_gib: float | None = Field(default=None, gt=0)
    gpu_memory_utilization: float = Field(default=0.85, gt=0, lt=1)
    gpu_memory_gib: float | None = Field(default=None, gt=0)
    sleep: bool = False


class GatewaySettings(BaseModel):
    """Bounds on what one client may ask of the gateway."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    workers: int = Field(default=1, ge=1, le=64)
    max_body_bytes: int = Field(default=2 * 2**20, ge=1024)
    body_timeout_s: float = Field(default=30, gt=0)
    first_byte_timeout_s: float = Field(default=300, gt=0)
    idle_timeout_s: float = Field(default=120, gt=0)
    keep_alive_s: float = Field(default=15, gt=0)
    shutdown_delay_s: float = Field(default=5, ge=0)
    drain_timeout_s: float = Field(default=30, ge=0)
    max_held: int = Field(default=256, ge=0)
    hold_timeout_s: float = Field(default=300, ge=0)
    # vLLM's own default of sequences at once; more would wait in the engine, in the order they came.
    max_running_per_engine: int = Field(default=256, ge=1)
    max_queued: int = Field(default=1024, ge=0)
    limits_url: str | None = Field(default=None, pattern=r"^rediss?://")
    max_file_bytes: int = Field(default=200 * 2**20, ge=1024)
    # Of one team, or of one key without a team.
    max_stored_bytes: int = Field(default=10 * 2**30, ge=1024)
    max_running_of_batches: int = Field(default=32, ge=1, le=4096)
    # The one proxy whose X-Forwarded-For is believed: its address, or the network it lies in.
    trusted_proxy: IPv4Network | IPv6Network | None = None

    @model_validator(mode="after")
    def _workers_count_together(self) -> GatewaySettings:
        if self.workers > 1 and self.limits_url is None:
            raise ValueError(
                "several workers count limits together, which takes a Redis or Valkey: set limits_url (redis://127.0.0.1:6379/0)"
            )
        return self


class FinetuneSettings(BaseModel):
    """The worker that `sumika up` starts; `command` is what it trains with.

    `data_root`: jobs of team T that come over the network may read data below `data_root`/T; None: uploaded files alone.
    `tracking`: the MLflow servers that queued jobs may name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    worker: bool = True
    command: list[NonEmpty] = Field(
        default_factory=lambda: [sys.executable, "-m", "sumika.cli.main", "finetune", "run"], min_length=1
    )
    silence_timeout_s: float = Field(default=300, gt=0)
    data_root: Path | None = None
    tracking: list[TrackingServer] = Field(default_factory=list, max_length=16)

    @model_validator(mode="after")
    def _names_differ(self) -> FinetuneSettings:
        names = [server.name for server in self.tracking]
        if len(set(names)) != len(names):
            raise ValueError("two tracking servers have the same name")
        return self

    @property
    def team_folders(self) -> Path | None:
        """`data_root` without links and `..`."""
        return None if self.data_root is None else self.data_root.expanduser().resolve()


class AuditSettings(BaseModel):
    """What the audit log tells of requests. `content`: also what was asked and answered, sealed to `content_key`.
    `witness`: where checkpoints also go (`audit/sinks.py`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inference: Literal["none", "metadata", "content"] = "metadata"
    content_key: Path | None = None
    witness: str | None = Field(default=None, pattern=WITNESS)

    @model_validator(mode="after")
    def _content_needs_a_key(self) -> AuditSettings:
        if (self.inference == "content") != (self.content_key is not None):
            raise ValueError("inference: content and content_key belong together; 'sumika audit keygen FILE' makes FILE.pub")
        return self


class BackupSettings(BaseModel):
    """Whom `sumika backup` encrypts to: age's X25519 public keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipients: list[Annotated[str, StringConstraints(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]] = []


class Settings(BaseSettings):
    """Everything an operator sets. Unknown keys are refused, wherever they stand."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    home: Path = Path("var")
    host: NonEmpty = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    database_url: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    engine: EngineSettings = EngineSettings()
    gateway: GatewaySettings = GatewaySettings()
    finetune: FinetuneSettings = FinetuneSettings()
    audit: AuditSettings = AuditSettings()
    backup: BackupSettings = BackupSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    oidc: OidcSettings = OidcSettings()

    @model_validator(mode="after")
    def _no_default_secret(self) -> Settings:
        if self.database_url is None:
            return self
        try:
            url = make_url(self.database_url)
        except ArgumentError:
            raise ValueError("database_url is not a database URL such as postgresql+psycopg://user:…@host/sumika") from None
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ValueError("database_url must name SQLite or PostgreSQL")
        if url.password is not None and str(url.password).lower() in _DEFAULT_SECRETS:
            raise ValueError("database_url carries a default password; choose a secret one")
        return self

    @model_validator(mode="after")
    def _data_is_not_at_home(self) -> Settings:
        data, home = self.finetune.team_folders, self.layout.root
        if data is not None and (data.is_relative_to(home) or home.is_relative_to(data)):
            raise ValueError(
                "finetune.data_root and home must lie apart, neither in the other: home holds keys and every team's files"
            )
        return self

    @property
    def layout(self) -> Home:
        return Home(self.home.expanduser().resolve())

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def store_url(self) -> str:
        return self.database_url or f"sqlite:///{self.layout.database}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the base class fixes the signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file; no .env file and no secrets folder are read."""
        return env_settings, init_settings


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings file (`SUMIKA_CONFIG`, else `configs/sumika.yaml` where it exists) under the environment.

    Raises:
        SumikaError: `bad_config`, naming every problem at once.
    """
    path = file or Path(os.environ.get("SUMIKA_CONFIG", DEFAULT_FILE))
    named = file is not None or "SUMIKA_CONFIG" in os.environ
    document = yamlfile.read(path) if named or path.exists() else yamlfile.Document(path, {}, {})
    strange = _strange_variables(os.environ)
    if strange:
        raise yamlfile.config_error(Path("environment"), strange)
    try:
        return Settings(**document.data)
    except ValidationError as error:
        raise yamlfile.explained(Settings, document, error) from None
    except SettingsError as error:
        raise yamlfile.config_error(Path("environment"), [f"{error}; write groups and lists as JSON"]) from None


def _strange_variables(environment: Mapping[str, str]) -> list[str]:
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for group, names in (
        ("ENGINE", EngineSettings.model_fields),
        ("GATEWAY", GatewaySettings.model_fields),
        ("FINETUNE", FinetuneSettings.model_fields),
        ("AUDIT", AuditSettings.model_fields),
        ("BACKUP", BackupSettings.model_fields),
        ("TELEMETRY", TelemetrySettings.model_fields),
        ("OIDC", OidcSettings.model_fields),
    ):
        known += [f"{PREFIX}{group}__{name.upper()}" for name in names]
    strange = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name.startswith(_NOT_SETTINGS) or name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        strange.append(f"unknown variable {name}" + (f"; did you mean {close[0]}?" if close else ""))
    return strange
