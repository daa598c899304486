"""A job's data as its base will see it, its suites included."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sumika.finetune.chat import ChatFormat
from sumika.finetune.checks import base as bases
from sumika.finetune.checks import suites
from sumika.finetune.checks.findings import Findings
from sumika.finetune.config import JobConfig
from sumika.finetune.data.prepare import Prepared, prepare
from sumika.finetune.data.reading import Reader
from sumika.finetune.data.record import Conversation, Row
from sumika.models.home import Home
from sumika.models.registry import Version
from sumika.models.store import Store
from sumika.models.yamlproblems import Document


@dataclass(frozen=True, slots=True)
class Looked:
    """A job's data, read and rendered for its base; `data.problems` may still hold what stops it."""

    base: Version
    folder: Path
    chat: ChatFormat
    data: Prepared
    suites: dict[str, list[Row[Conversation]]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    """Of every file that was read, by its name."""


def look(config: JobConfig, store: Store, home: Home, document: Document | None = None) -> Looked:
    """Read the data as the base will see it, and leave what is wrong with it in `data.problems`.

    Raises:
        SumikaError: `bad_config`, when the base is not there, or can't be put a conversation to.
    """
    findings = Findings(document or unread(config))
    base = bases.find(config, store, findings)
    findings.stop()
    assert base is not None  # noqa: S101 - or there was a finding
    folder = home.artifacts / base.folder
    chat = bases.chat_format(config, folder, findings)
    findings.stop()
    assert chat is not None  # noqa: S101
    return read(config, base, folder, chat)


def read(config: JobConfig, base: Version, folder: Path, chat: ChatFormat) -> Looked:
    limit = config.data.max_length or base.meta.get("serve", {}).get("max_model_len")
    data = prepare(
        config.data, config.evaluate.held_out, chat, job=config.job.name, base=str(base.ref), limit=limit, seed=config.job.seed,
        method=config.job.method, inputs=config.inputs,
    )  # fmt: skip
    asked, files = {}, [*data.report.files, *data.report.held_out_files]
    for suite in config.evaluate.suites:
        reader = Reader(data.problems, config.inputs)
        asked[suite.name] = suites.read(suite, config.data, chat, limit, data.marks, reader)
        files += reader.files
    return Looked(base, folder, chat, data, asked, {file.name: file.sha256 for file in files})


def unread(config: JobConfig) -> Document:
    """Stands for the file of a job that was made in memory."""
    return Document(Path(config.job.name), {}, {})
