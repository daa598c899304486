"""`sumika finetune`: check a job's YAML in seconds, or run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.finetune import config as jobs
from sumika.finetune import pipeline
from sumika.models.registry import Version

app = typer.Typer(no_args_is_help=True, help="LoRA jobs from a YAML.")
File = Annotated[Path, typer.Argument(help="The job, for example configs/finetune/sakura-faq.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="group.key=value, for example lora.r=8.")]


@app.command()
def check(file: File, overrides: Overrides = None, json: Json = False) -> None:
    """Find in seconds what would fail later: config, data, template, stop token, lengths."""
    config = jobs.load(file, overrides)
    with opened() as (settings, store):
        figures = pipeline.check(config, store, settings.layout).figures()
    if json:
        output.print_json(figures)
    else:
        output.print_table(("", ""), figures.items(), ("", ""))
        output.say("The job can start: sumika finetune run …", "この学習は開始できます: sumika finetune run …")


@app.command()
def run(file: File, overrides: Overrides = None, json: Json = False) -> None:
    """Train, judge and register; exit code 2 when the gate refuses the result."""
    config = jobs.load(file, overrides)
    with opened() as (settings, store):
        version = pipeline.run(config, store, settings.layout, output.err())
    if json:
        output.print_json({"version": str(version.ref), "gate": version.gate, "evaluation": version.meta["evaluation"]})
    else:
        tell_judged(version)
    if version.gate == "refused":
        raise typer.Exit(2)


def tell_judged(version: Version) -> None:
    """How the candidate did beside its base, and what follows."""
    judged = version.meta["evaluation"]
    rows = [
        (name, f"{judged[key]['right']} / {judged[key]['rows']}", f"{judged[key]['ended']} / {judged[key]['rows']}")
        for name, key in ((str(version.ref), "candidate"), (str(version.base), "base"))
    ]
    output.print_table(("held-out questions", "right facts", "ended by themselves"), rows, ("", ""))
    if version.gate == "passed":
        output.say(
            f"Gate passed. Serve it: sumika deploy {version.ref.name} {version.ref}",
            f"評価に合格しました。配備: sumika deploy {version.ref.name} {version.ref}",
        )
    else:
        output.say(
            f"Gate refused {version.ref}: it is registered, but may not serve.",
            f"{version.ref} は評価に合格しませんでした。登録済みですが、配備できません。",
        )
