"""The check, stage by stage: the base and the machine, then the data, then what the data takes of memory."""

from __future__ import annotations

from sumika.finetune.checks import base as bases
from sumika.finetune.checks import look, machine
from sumika.finetune.checks.findings import Findings
from sumika.finetune.checks.result import Checked
from sumika.finetune.config import JobConfig
from sumika.finetune.device import Device
from sumika.finetune.tracking import Tracking
from sumika.models.home import Home
from sumika.models.principals import Principal
from sumika.models.settings import EngineSettings
from sumika.models.store import Store
from sumika.models.yamlproblems import Document


def check(
    config: JobConfig,
    store: Store,
    home: Home,
    *,
    engine: EngineSettings | None = None,
    device: Device | None = None,
    document: Document | None = None,
    tracking: Tracking | None = None,
    seen_by: Principal | None = None,
) -> Checked:
    """Everything that can be known to fail without loading weights, in seconds. All that one stage finds is told at once.

    `engine`: what the stack here is started with; None leaves its limit out. `device`: None looks at this machine.
    `document`: the file the job was read from, for its lines. `tracking`: the MLflow servers that it may name; None: any address.
    `seen_by`: who sent it, for whom another team's versions are not there; None: the operator.

    Raises:
        SumikaError: `bad_config`, at the keys; `bad_data`, at the rows.
    """
    device = device or Device.here(config.train.gpus)
    findings = Findings(document or look.unread(config))
    bases.check_alias(config, store, findings)
    (tracking or Tracking()).check(config, home, findings)
    if engine is not None:
        bases.check_rank(config, engine, findings)
    machine.check_device(config, device, findings)
    base = bases.find(config, store, findings, seen_by)
    folder = home.artifacts / base.folder if base is not None else None
    shape = bases.read_shape(folder, findings) if folder is not None else None
    chat = None
    if base is not None and folder is not None and shape is not None:
        bases.check_catalog(base, findings)
        bases.check_model(folder, findings)
        bases.check_targets(config, shape, findings)
        machine.check_disk(config, shape, home.runs, findings)
        chat = bases.chat_format(config, folder, findings)
    findings.stop()
    assert base is not None and folder is not None and shape is not None and chat is not None  # noqa: S101 - or there was a finding
    looked = look.read(config, base, folder, chat)
    looked.data.problems.stop()
    rows = looked.data.pairs() if config.job.method == "dpo" else looked.data.rows()
    batching, memory = machine.fit(config, shape, device, rows, findings)
    findings.stop()
    return Checked(
        base, folder, chat, looked.data, rows, looked.suites, batching, memory, looked.sha256, list(bases.warnings(base))
    )
