"""A job from its YAML to a judged version in the registry, step by step; killed anywhere, it goes on from what is on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sumika.finetune import checks, runs
from sumika.finetune.checks import Checked
from sumika.finetune.config import JobConfig
from sumika.finetune.data import inputs, records, reports
from sumika.finetune.tracking import Tracking
from sumika.finetune.training.journal import Journal
from sumika.models import aliases, audit, canary, importing, jobs, registry
from sumika.models.audit import Action
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.principals import OPERATOR
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.models.store import Store
from sumika.models.yamlproblems import Document

if TYPE_CHECKING:
    from sumika.finetune.evaluation.judging import Judged
    from sumika.finetune.training.task import Task, Trained


def run(
    config: JobConfig,
    store: Store,
    home: Home,
    console: Console,
    folder: Path | None = None,
    *,
    engine: EngineSettings | None = None,
    document: Document | None = None,
    tracking: Tracking | None = None,
) -> Version:
    """Check, train, judge and register; the new version, with its gate passed or refused.

    `folder`: a run that was begun before, to go on with from its newest good checkpoint. `engine`, `document`,
    `tracking`: as for `checks.check`.

    Raises:
        SumikaError: as `checks.check`; `run_busy`; `disk_full`; `data_changed`; `tracking_failed`; `bad_adapter`, should vLLM not take the result.
        Stopped: on the first Ctrl-C or SIGTERM, once a checkpoint was saved.
    """
    with audit.told(store, Action.FINETUNE_RUN, config.job.name) as told:
        tracking = tracking or Tracking()
        checked = checks.check(config, store, home, engine=engine, document=document, tracking=tracking)
        version = _run(checked, config, store, home, console, folder, tracking)
        told |= {"version": str(version.ref), "base": str(version.base), "gate": version.gate}
        return version


def _run(
    checked: Checked, config: JobConfig, store: Store, home: Home, console: Console, folder: Path | None, tracking: Tracking
) -> Version:
    # "the newest" may be another tomorrow: what is kept names the version this run stood on
    config = config.model_copy(update={"base": config.base.model_copy(update={"version": str(checked.base.ref)})})
    folder = folder or runs.create(config, home)
    with runs.alone_at(folder):
        return _registered(store, config.serve.alias, folder.name) or _made(
            checked, config, store, home, folder, console, tracking
        )


def _made(
    checked: Checked, config: JobConfig, store: Store, home: Home, folder: Path, console: Console, tracking: Tracking
) -> Version:
    inputs.check_unchanged(folder, checked.sha256)
    runs.keep_config(folder, config)
    inputs.keep(folder, config.inputs, checked.sha256)
    journal = Journal(folder)
    journal.enter("loading")
    reports.keep(checked.data.report, folder)
    trained = _train(checked, config, folder, journal, console, tracking)
    journal.enter("judging")
    with console.status("judging: held-out questions, side by side"):
        judged = _judge(trained.model, checked, store, home, config)
    version = _register(checked, config, trained, judged, store, home, folder)
    runs.keep(folder, runs.RESULT, _result(version))
    journal.enter("done")
    return version


def _train(checked: Checked, config: JobConfig, folder: Path, journal: Journal, console: Console, tracking: Tracking) -> Trained:
    # torch and its friends take half a minute to load: only a job that may start pays for them.
    with console.status("loading torch and the base model"):
        from sumika.finetune import base_model
        from sumika.finetune.training import curves, together
        from sumika.finetune.training import journal as journals
        from sumika.finetune.training.task import Task

    held_out = [checked.chat.render_conversation(row.content) for row in checked.data.held_out]
    task = Task(config, checked.chat, checked.rows, held_out, checked.batching, folder)
    if config.train.gpus > 1:
        trained = together.train(task, lambda: base_model.load(checked.folder))
    else:
        trained = _train_here(base_model.load(checked.folder, quantize=config.base.quantize), task, journal, console, tracking)
    curves.draw(journals.read(folder), folder / curves.PICTURE)
    return trained


def _train_here(base: Any, task: Task, journal: Journal, console: Console, tracking: Tracking) -> Trained:
    from sumika.finetune.training import mlflow_run
    from sumika.finetune.training.train import train

    with mlflow_run.following(task.config, task.run, tracking) as followers:
        return train(base, task, journal, console, *followers)


def _judge(model: Any, checked: Checked, store: Store, home: Home, config: JobConfig) -> dict[str, Judged]:
    from sumika.finetune.evaluation import gate, judging
    from sumika.finetune.evaluation.judging import Set

    sets = {gate.HELD_OUT: Set(checked.data.held_out, "facts", config.evaluate.max_new_tokens)}
    for suite in config.evaluate.suites:
        sets[suite.name] = Set(checked.suites[suite.name], suite.check, suite.max_new_tokens)
    served = _served(store, config.serve.alias, checked.base)
    return judging.judge(model, checked.chat, sets, None if served is None else home.artifacts / served.folder)


def _owner(store: Store, run: str) -> str | None:
    """Whose job the run is; what the operator trains is everybody's."""
    with store.read() as connection:
        job = jobs.of_run(connection, run)
    return None if job is None or job.owner == OPERATOR else job.owner


def _served(store: Store, alias: str, base: Version) -> Version | None:
    """The adapter that `alias` serves, where it stands on the same base."""
    with store.read() as connection:
        now = aliases.find(connection, alias)
        version = None if now is None else registry.by_id(connection, now.version_id)
    return version if version is not None and version.base == base.ref else None


def _register(
    checked: Checked, config: JobConfig, trained: Trained, judged: dict[str, Judged], store: Store, home: Home, folder: Path
) -> Version:
    from sumika.finetune import lineage, reference
    from sumika.finetune.evaluation import gate

    held_out = judged[gate.HELD_OUT]
    reasons = gate.reasons(config.serve.gate, judged)
    evaluation: dict[str, Any] = {who: score.as_dict() for who, score in held_out.scores.items()}
    evaluation["suites"] = {
        name: {who: score.as_dict() for who, score in one.scores.items()} for name, one in judged.items() if name != gate.HELD_OUT
    }
    served = _served(store, config.serve.alias, checked.base)
    evaluation |= {"served_version": None if served is None else str(served.ref), "gate": "refused" if reasons else "passed"}
    evaluation["reasons"] = [{"en": en, "ja": ja} for en, ja in reasons]
    told = {name: {who: [asdict(a) for a in given] for who, given in one.answers.items()} for name, one in judged.items()}
    runs.keep(folder, runs.EVALUATION, evaluation | {"answers": told})
    adapter = folder / "adapter"
    _save_adapter(trained.model, adapter, checked.base.ref)
    canary.save(adapter, reference.make(trained.model, checked.chat, checked.data.held_out, held_out.answers["candidate"]))
    records.write(adapter, checked.data.marks)
    return importing.import_adapter(
        store, home, config.serve.alias, adapter, base=checked.base.ref, max_lora_rank=config.serve.max_lora_rank,
        gate=evaluation["gate"], meta={"training": lineage.of(config, checked, trained, folder), "evaluation": evaluation},
        owner=_owner(store, folder.name),
    )  # fmt: skip


def _registered(store: Store, name: str, run: str) -> Version | None:
    """The version that this run made before it was killed, if it came so far."""
    with store.read() as connection:
        versions = registry.list_all(connection)
    return next((v for v in versions if v.ref.name == name and v.meta.get("training", {}).get("run") == run), None)


def _save_adapter(model: Any, target: Path, base: VersionRef) -> None:
    """Weights and configuration alone: a template, tokenizer or token beside an adapter has no effect in vLLM."""
    model.save_pretrained(target)
    for path in target.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    path = target / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = str(base)  # not a path of this machine
    runs.keep(target, path.name, config)


def _result(version: Version) -> dict[str, Any]:
    training = version.meta["training"]
    figures = {
        key: training[key] for key in ("steps", "seconds", "trained_tokens", "first_loss", "last_loss", "peak_memory_bytes")
    }
    return {"version": str(version.ref), "gate": version.gate, "evaluation": version.meta["evaluation"], "figures": figures}
