"""The run as MLflow sees it, where `track.mlflow` names a server: the job's keys as parameters, its figures as metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sumika.finetune import runs
from sumika.finetune.config import JobConfig
from sumika.models.errors import SumikaError, quoted

log = logging.getLogger(__name__)
_LONGEST_VALUE = 6000  # MLflow refuses longer parameter values


class MlflowRun(TrainerCallback):  # type: ignore[misc]
    """Begins a run at once, so that a server that can't be reached ends the job before its first step and not at night.

    Later a server that is gone costs its figures and not the job.

    Raises:
        SumikaError: `tracking_failed`.
    """

    def __init__(self, uri: str, experiment: str, name: str, params: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient, MlflowException

        self._failure = MlflowException
        self._client = MlflowClient(tracking_uri=uri)
        self._lost = False
        try:
            found = self._client.get_experiment_by_name(experiment)
            where = found.experiment_id if found else self._client.create_experiment(experiment)
            self._run = self._client.create_run(where, run_name=name).info.run_id
            for key, value in runs.dotted(params):
                self._client.log_param(self._run, key, str(value)[:_LONGEST_VALUE])
        except MlflowException as error:
            raise SumikaError(
                "tracking_failed",
                f"track.mlflow: {uri} does not take this run ({quoted(str(error))}). Start the server, correct the address, or take the line out.",
                f"track.mlflow: {uri} に記録できません({quoted(str(error))})。サーバーを起動するか、アドレスを直すか、この行を消してください。",
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
def following(config: JobConfig, run: Path) -> Iterator[list[TrainerCallback]]:
    """Inside, the run is open at the server that `track` names, and what a trainer must call for it is given; nothing where
    it names none. Raises as `MlflowRun`."""
    track = config.track
    if track.mlflow is None:
        yield []
        return
    followed = MlflowRun(track.mlflow, track.experiment or config.job.name, run.name, config.model_dump(mode="json"))
    try:
        yield [followed]
    except BaseException as error:
        followed.end("KILLED" if isinstance(error, KeyboardInterrupt | runs.Stopped) else "FAILED")
        raise
    followed.end("FINISHED")
