"""The run as MLflow sees it, where `track.mlflow` names a server: the job's keys as parameters, its figures as metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from sumika.finetune import runs
from sumika.finetune.config import JobConfig
from sumika.finetune.tracking import Tracking
from sumika.models.errors import SumikaError, quoted
from sumika.models.tracking_settings import TrackingServer

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
_LONGEST_VALUE = 6000  # MLflow refuses longer parameter values


class MlflowRun(TrainerCallback):  # type: ignore[misc]
    """Begins a run at once, so that a server that can't be reached ends the job before its first step and not at night.

    Later a server that is gone costs its figures and not the job.

    Raises:
        SumikaError: `tracking_failed`.
    """

    def __init__(self, address: str, server: TrackingServer | None, experiment: str, name: str, params: dict[str, Any]) -> None:
        from mlflow import MlflowException

        self._failure = MlflowException
        self._lost = False
        shown = address if server is None else server.name
        try:
            self._client = _client(address, server)
            found = self._client.get_experiment_by_name(experiment)
            where = found.experiment_id if found else self._client.create_experiment(experiment)
            self._run = self._client.create_run(where, run_name=name).info.run_id
            for key, value in runs.dotted(params):
                self._client.log_param(self._run, key, str(value)[:_LONGEST_VALUE])
        except MlflowException as error:
            said = quoted(str(error).partition("Response")[0])  # what the server answered is nobody's to read here
            raise SumikaError(
                "tracking_failed",
                f"track.mlflow: {shown} does not take this run ({said}). Start the server, correct its address, or take the line out.",
                f"track.mlflow: {shown} に記録できません({said})。サーバーを起動するか、アドレスを直すか、この行を消してください。",
            ) from None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG002
        self.figures({key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}, state.global_step)

    def figures(self, values: dict[str, float], step: int) -> None:
        """Send `values` as metrics of `step`; after the first failure nothing more is sent."""
        if self._lost:
            return
        try:
            for key, value in values.items():
                self._client.log_metric(self._run, key, float(value), step=step)
        except self._failure as error:
            self._lost = True
            log.warning("MLflow is gone (%s); the run goes on without it", type(error).__name__)

    def end(self, status: str) -> None:
        """`status`: FINISHED, FAILED or KILLED, as MLflow spells them."""
        if not self._lost:
            try:
                self._client.set_terminated(self._run, status)
            except self._failure:
                log.warning("MLflow is gone; this run stays open there")


@contextmanager
def following(config: JobConfig, run: Path, tracking: Tracking) -> Iterator[list[TrainerCallback]]:
    """Inside, the run is open at the server that `track` names, and what a trainer must call for it is given; nothing where
    it names none. Raises as `MlflowRun`."""
    track = config.track
    if track.mlflow is None:
        yield []
        return
    server = tracking.server(track.mlflow)
    followed = MlflowRun(
        track.mlflow if server is None else server.url, server, track.experiment or config.job.name, run.name,
        config.model_dump(mode="json"),
    )  # fmt: skip
    try:
        yield [followed]
    except BaseException as error:
        followed.end("KILLED" if isinstance(error, KeyboardInterrupt | runs.Stopped) else "FAILED")
        raise
    followed.end("FINISHED")


def _client(address: str, server: TrackingServer | None) -> MlflowClient:
    """A client that shows its server the credentials listed for it and no others, and that is led nowhere else."""
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
        "NETRC": os.devnull,  # requests would put what it finds there in the place of our own
    }
    from mlflow import MlflowClient
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.rest_utils import MlflowHostCreds

    client = MlflowClient(tracking_uri=address)
    store = client._tracking_client.store
    if isinstance(store, RestStore):
        # MLflow's own look-up takes the environment and ~/.mlflow/credentials, for whatever host.
        listed: dict[str, Any] = {}
        if server is not None:
            ca = None if server.ca_file is None else str(server.ca_file.expanduser())
            listed = {"token": server.token, "username": server.username, "password": server.password, "server_cert_path": ca}
        credentials = MlflowHostCreds(address, **listed)  # type: ignore[no-untyped-call]
        store.get_host_creds = lambda: credentials
    return client
