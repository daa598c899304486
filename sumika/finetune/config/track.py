"""Where a run's curves go, besides the TensorBoard files and pictures that every run folder gets."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from sumika.finetune.group import Group, refused
from sumika.models import addresses
from sumika.models.errors import SumikaError
from sumika.models.names import check_name

_FILE = re.compile(r"sqlite:///{1,2}[^?#\x00-\x20]+")


def _a_server(text: str) -> str:
    """A name of the administrator's list, or an address; `tracking` says who may write which."""
    try:
        if ":" not in text:
            return check_name(text)
        if not _FILE.fullmatch(text):
            addresses.parse(text)
    except (SumikaError, ValueError) as error:
        why = f" ({error})" if isinstance(error, ValueError) and text.startswith("http") else ""
        raise refused(
            f"is no address of an MLflow server{why}; write the name of one under finetune.tracking in sumika.yaml, or on the "
            "command line write http://HOST:PORT, https://HOST or sqlite:////FILE",
            "はMLflowサーバーのアドレスではありません。sumika.yaml の finetune.tracking にある名前か、コマンドラインでは "
            "http://HOST:PORT、https://HOST、sqlite:////FILE を指定してください",
        ) from None
    return text


class Track(Group):
    """MLflow, where there is a server."""

    mlflow: Annotated[str, AfterValidator(_a_server)] | None = None
    """Name of a server under finetune.tracking in sumika.yaml; on the command line also an http(s) address or sqlite:////FILE; null: none."""
    experiment: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """MLflow's experiment; null: job.name."""
