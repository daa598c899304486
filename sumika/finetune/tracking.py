"""Which MLflow server a job's `track.mlflow` names: one of an administrator's list, or an address that an operator types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sumika.models.home import Home
from sumika.models.tracking_settings import TrackingServer

if TYPE_CHECKING:
    from sumika.finetune.checks.findings import Findings
    from sumika.finetune.config import JobConfig

_FILE = "sqlite:"


@dataclass(frozen=True, slots=True)
class Tracking:
    """`servers`: the list. `addresses`: whether a job may write an address instead, as one that runs in the foreground may."""

    servers: Sequence[TrackingServer] = ()
    addresses: bool = True

    def server(self, mlflow: str) -> TrackingServer | None:
        """The one of this name. An address is none's, and is given no credentials."""
        return next((one for one in self.servers if one.name == mlflow), None)

    def check(self, config: JobConfig, home: Home, findings: Findings) -> None:
        mlflow = config.track.mlflow
        if mlflow is None or self.server(mlflow) is not None:
            return
        if ":" in mlflow and self.addresses:
            if mlflow.startswith(_FILE) and _file(mlflow).is_relative_to(home.root):
                findings.add(
                    "track.mlflow",
                    "names a file in $SUMIKA_HOME, which is Sumika's own; give one that lies elsewhere",
                    "に $SUMIKA_HOME の中のファイルは指定できません。別の場所を指定してください",
                )
            return
        names = ", ".join(one.name for one in self.servers)
        if self.addresses:
            findings.add(
                "track.mlflow",
                f"is no address of an MLflow server, and no name under finetune.tracking in sumika.yaml (there are: {names or 'none'}); "
                "write http://HOST:PORT, https://HOST, sqlite:////FILE, or one of the names",
                f"はMLflowサーバーのアドレスでも、sumika.yaml の finetune.tracking にある名前(登録済み: {names or 'なし'})でもありません。"
                "http://HOST:PORT、https://HOST、sqlite:////FILE、または登録済みの名前を指定してください",
            )
            return
        findings.add(
            "track.mlflow",
            f"is no tracking server of this installation (there are: {names or 'none'}); name one of them, or have an administrator add "
            "yours to finetune.tracking in sumika.yaml",
            f"に指定できるのは登録済みのトラッキングサーバーだけです(登録済み: {names or 'なし'})。この中から指定するか、"
            "sumika.yaml の finetune.tracking への追加を管理者に依頼してください",
        )


def _file(address: str) -> Path:
    """SQLAlchemy takes four slashes for an absolute path."""
    return Path(unquote(urlsplit(address).path).removeprefix("/")).resolve()
