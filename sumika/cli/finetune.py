"""`sumika finetune`: check a job's YAML in seconds, or run it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sumika.cli import datareport, output
from sumika.cli.context import Alone, end_with, opened
from sumika.cli.output import Json
from sumika.finetune import checks, ordered, pipeline
from sumika.finetune import config as jobs
from sumika.finetune.checks.light import without_torch
from sumika.finetune.data import affected as affecting
from sumika.finetune.data import reports
from sumika.finetune.data.reading import How
from sumika.finetune.data.settings import Columns, Encoding
from sumika.finetune.runs import Stopped
from sumika.finetune.tracking import Tracking
from sumika.models import audit
from sumika.models.audit import Action
from sumika.models.errors import quoted
from sumika.models.registry import Version
from sumika.models.yamlproblems import Document

app = typer.Typer(no_args_is_help=True, help="LoRA jobs from a YAML.")
File = Annotated[Path, typer.Argument(help="The job, for example configs/finetune/sakura-faq.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="group.key=value, for example lora.r=8.")]


@app.command()
def check(context: typer.Context, file: File, overrides: Overrides = None, json: Json = False) -> None:
    """Find in seconds what would fail later: config, base, template, stop token, data, memory, disk."""
    config, document = jobs.read(file, overrides)
    if isinstance(context.obj, Alone):
        without_torch()
    with opened() as (settings, store):
        checked = checks.check(
            config,
            store,
            settings.layout,
            engine=settings.engine,
            document=document,
            tracking=Tracking(settings.finetune.tracking),
        )
    if json:
        warnings = [warning.text(output.language()) for warning in (*checked.warnings, *checked.data.report.warnings())]
        output.print_json(checked.figures() | {"memory": asdict(checked.memory), "warnings": warnings})
    else:
        output.print_table(("", ""), checked.figures().items(), ("", ""))
        for warning in checked.warnings:
            output.warn(warning.en, warning.ja)
        datareport.show_warnings(checked.data.report)
        output.say("The job can start: sumika finetune run …", "この学習は開始できます: sumika finetune run …")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job's YAML, for editors (configs/finetune/schema.json)."""
    output.print_json(jobs.JobConfig.model_json_schema())


@app.command()
def run(
    context: typer.Context,
    file: File,
    overrides: Overrides = None,
    folder: Annotated[
        Path | None, typer.Option("--run", help="A run's folder, to go on with from its newest checkpoint; default: a new one.")
    ] = None,
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="Save and stop when this process is no longer the parent.")
    ] = None,
    prepare: Annotated[
        bool, typer.Option(hidden=True, help="Make and check the job of an order that lies in the run's folder; train nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Train, judge and register; exit code 2 when the gate refuses the result, 130 when asked to stop.

    Ctrl-C once saves a checkpoint and stops; 'sumika finetune resume RUN' goes on.
    """
    if parent is not None:
        end_with(parent)
    if prepare and folder is not None:
        if isinstance(context.obj, Alone):
            without_torch()
        with opened() as (settings, store):
            ordered.prepare(folder, store, settings.layout, settings.engine)
        return
    foreground(*jobs.read(file, overrides), folder, json, queued=parent is not None)


def foreground(config: jobs.JobConfig, document: Document, folder: Path | None, json: bool, *, queued: bool = False) -> None:
    """Run a job here and now, and tell how it was judged. `queued`: for the worker, which sends nothing to addresses in jobs."""
    with opened() as (settings, store):
        tracking = Tracking(settings.finetune.tracking, addresses=not queued)
        try:
            version = pipeline.run(
                config, store, settings.layout, output.err(), folder, engine=settings.engine, document=document,
                tracking=tracking,
            )  # fmt: skip
        except Stopped as stopped:
            output.say(
                f"Stopped and saved. To go on: sumika finetune resume {stopped.run}",
                f"保存して停止しました。再開: sumika finetune resume {stopped.run}",
            )
            raise typer.Exit(130) from None
    if json:
        output.print_json({"version": str(version.ref), "gate": version.gate, "evaluation": version.meta["evaluation"]})
    else:
        tell_judged(version)
    if version.gate == "refused":
        raise typer.Exit(2)


@app.command()
def data(
    file: File,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the HTML page; default: $SUMIKA_HOME/reports/JOB.")] = None,
    json: Json = False,
) -> None:
    """Report on a job's data without training: what is kept, dropped, repeated, personal, and how the model sees it."""
    config, document = jobs.read(file, overrides)
    with opened() as (settings, store), audit.told(store, Action.DATA_REPORT, config.job.name) as told:
        looked = checks.look(config, store, settings.layout, document)
        told["rows"] = looked.data.report.read
    folder = out or settings.layout.root / "reports" / config.job.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    page = reports.keep(looked.data.report, folder, output.language())
    if json:
        output.print_json(looked.data.report.as_dict())
    else:
        datareport.show(looked.data.report)
        output.out().print(f"\n{page}", highlight=False, soft_wrap=True)
    looked.data.problems.stop()


@app.command()
def affected(
    record: Annotated[
        Path, typer.Option(help="The records to look for, in any format that training takes; questions alone will do.")
    ],
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN, for example prompt=質問, as in data.columns.")] = None,
    encoding: Annotated[Encoding, typer.Option(help="As data.encoding.")] = "auto",
    json: Json = False,
) -> None:
    """Name the adapters that were trained on a record, and the aliases they serve: for requests to delete."""
    asked = affecting.read(record, How(_named(column or []), encoding=encoding, questions=True))
    with opened() as (settings, store), audit.told(store, Action.DATA_AFFECTED, "records", asked_for=len(asked)) as told:
        found = affecting.find(asked, store, settings.layout)
        saw = [one for one in found if one.affected]
        told["affected"] = [one.name for one in saw]
    unknown = [one for one in found if one.records is None]
    if json:
        output.print_json(
            {"asked": len(asked), "affected": [asdict(one) for one in saw], "unknown": [one.name for one in unknown]}
        )
        return
    output.print_table(
        ("adapter", "in service as", "records seen", "questions seen"),
        [(one.name, ", ".join(one.aliases) or "–", f"{one.records} of {len(asked)}", one.questions) for one in saw],
        ("No adapter here keeps a trace of these records.", "これらのレコードを学習したアダプターはありません。"),
    )
    if unknown:
        names = ", ".join(one.name for one in unknown)
        output.say(
            f"Can't be told for {names}: trained elsewhere, without a list of records.",
            f"{names} は判定できません(学習レコードの一覧がないため)。",
        )


def _named(columns: list[str]) -> dict[str, str]:
    given = dict(column.partition("=")[::2] for column in columns)
    if strange := sorted(given.keys() - Columns.model_fields.keys()) or [field for field, column in given.items() if not column]:
        known = ", ".join(Columns.model_fields)
        raise typer.BadParameter(f"'{quoted(strange[0])}': write FIELD=COLUMN, where FIELD is one of {known}")
    return given


_MODELS = (("candidate", "candidate"), ("served", "in service"), ("base", "base"))


def tell_judged(version: Version) -> None:
    """How the candidate did beside its base and the version in service, and what follows."""
    judged = version.meta["evaluation"]
    sets = {"held-out": judged} | judged.get("suites", {})
    rows = [(name, label, *_figures(scores[who])) for name, scores in sets.items() for who, label in _MODELS if who in scores]
    output.print_table(("rows", "model", "right", "exact", "F1", "loss", "ended by itself"), rows, ("", ""))
    if version.gate == "passed":
        output.say(
            f"Gate passed. Serve it: sumika deploy {version.ref.name} {version.ref}",
            f"評価に合格しました。配備: sumika deploy {version.ref.name} {version.ref}",
        )
        return
    reasons = judged.get("reasons", [])
    output.say(
        f"Gate refused {version.ref}: it is registered, but may not serve.{_listed([one['en'] for one in reasons])}",
        f"{version.ref} は評価に合格しませんでした。登録済みですが、配備できません。{_listed([one['ja'] for one in reasons])}",
    )


def _listed(reasons: list[str]) -> str:
    return "".join(f"\n  – {reason}" for reason in reasons)


def _figures(score: dict[str, Any]) -> tuple[str, ...]:
    rows = score["rows"]
    right = f"{score['right']} / {score['judged']}" if score["judged"] else "–"
    return right, f"{score['exact']} / {rows}", f"{score['f1']:.2f}", f"{score['loss']:.3f}", f"{score['ended']} / {rows}"
