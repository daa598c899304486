"""`sumika models`: what the registry holds, and how models come and go."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import archive as archive_command
from sumika.cli import catalog as catalog_command
from sumika.cli import output, proof, pulling, receiving, version_page
from sumika.cli.context import opened
from sumika.cli.importing import bring_in
from sumika.cli.output import Json
from sumika.models import aliases, audit, catalog, differences, registry, teams, version_facts
from sumika.models.audit import Action
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Models and their versions.")
catalog_command.register(app)
archive_command.register(app)
receiving.register(app)
Ref = Annotated[str, typer.Argument(metavar="NAME@N", help="A version.")]


@app.command("list")
def list_models(json: Json = False) -> None:
    """Every version, and the aliases that lead to it."""
    with opened() as (settings, store), store.read() as connection:
        versions = registry.list_all(connection)
        served: dict[int, list[str]] = {}
        for alias in aliases.list_all(connection):
            served.setdefault(alias.version_id, []).append(alias.name)
    facts = [{**version_facts.brief(v, settings.layout), "aliases": served.get(v.id, [])} for v in versions]
    if json:
        output.print_json(facts)
        return
    rows = [
        (fact["version"], fact["kind"], fact["base"], version_page.size(fact["bytes"]), v.gate if v.gate != "none" else "",
         proof.origin(fact["reference"]) if v.kind == "adapter" else "", v.created_at[:10], ", ".join(fact["aliases"]))
        for v, fact in zip(versions, facts, strict=True)
    ]  # fmt: skip
    output.print_table(
        ("version", "kind", "base", "size", "gate", "reference", "created", "served as"), rows,
        ("No models yet. Bring one in: 'sumika models pull gemma-3-270m'.", "モデルはまだありません。sumika models pull gemma-3-270m で取り込めます。"),
    )  # fmt: skip


@app.command()
def show(ref: Ref, json: Json = False) -> None:
    """All that is known of one version: lineage, data, evaluation, where it serves and served."""
    with opened() as (settings, store), store.read() as connection:
        version = registry.get(connection, VersionRef.parse(ref))
        facts = version_facts.whole(connection, version, settings.layout)
    if json:
        output.print_json(facts)
    else:
        version_page.show(facts)


@app.command("import")
def import_model(
    name: Annotated[str, typer.Argument(help="The name to register it under.")],
    path: Annotated[
        Path, typer.Argument(help="A folder of safetensors (base or LoRA adapter), a .gguf file, or a .sumika archive.")
    ],
    base: Annotated[str | None, typer.Option(metavar="NAME@N", help="For an adapter: the base it was trained on.")] = None,
    reference: Annotated[
        bool,
        typer.Option(
            help="For an adapter that brings none: make the reference that a deploy proves it by (a minute on the CPU)."
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Copy a model in from a local disk as a new version."""
    with opened() as (settings, store), audit.refusals(store, Action.MODEL_IMPORT, name):
        version = bring_in(settings, store, name, path, base, with_reference=reference)
    _tell(version, settings, json)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="ID", help="A catalog id ('configs/catalog/'), or its hub id.")],
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="The hub's commit to take, in place of the catalog's.")
    ] = None,
    unpinned: Annotated[
        bool, typer.Option("--unpinned", help="Take the newest of a model whose revision the catalog does not pin.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring in a model of the catalog; the only command that may use the network."""
    with opened() as (settings, store), audit.told(store, Action.MODEL_PULL, model) as told:
        version = pulling.pull(settings, store, catalog.get(model), revision=revision, unpinned=unpinned)
        told["version"] = str(version.ref)
        told["revision"] = version.meta.get("source", {}).get("revision", "")
    _tell(version, settings, json)


@app.command()
def verify(ref: Ref, json: Json = False) -> None:
    """Hash a version's files again and say which bytes of which file differ; exit code 1 where any do."""
    with opened() as (settings, store):
        with store.read() as connection:
            version = registry.get(connection, VersionRef.parse(ref))
        with output.copy_progress(f"verifying {ref}", f"{ref} を検証中") as told:
            found = differences.find(settings.layout.artifacts / version.folder, version.digest, told)
    if json:
        output.print_json({"version": ref, "intact": not found, "problems": [one.as_dict() for one in found]})
    elif found:
        output.say(f"{ref} differs from what was imported:", f"{ref} は取り込み時と異なります:")
        for one in found:
            output.out().print(f"  {one.text(output.language())}", highlight=False, markup=False)
    else:
        output.say(f"{ref} is as it was imported.", f"{ref} は取り込み時のままです。")
    if found:
        raise typer.Exit(1)


@app.command()
def remove(ref: Ref, json: Json = False) -> None:
    """Take a version out of the registry and delete its files; one that is in use is refused."""
    with opened() as (settings, store):
        with audit.refusals(store, Action.MODEL_REMOVE, ref), store.write() as connection:
            version = registry.get(connection, VersionRef.parse(ref))
            registry.remove(connection, version)
        shutil.rmtree(settings.layout.artifacts / version.folder, ignore_errors=True)
    if json:
        output.print_json({"removed": ref})
    else:
        output.say(f"{ref} is removed.", f"{ref} を削除しました。")


@app.command()
def assign(
    ref: Ref,
    team: Annotated[str | None, typer.Argument(help="The team that may see and deploy it; none: everybody.")] = None,
    json: Json = False,
) -> None:
    """Give a version to a team; without one it is everybody's."""
    with opened() as (_, store), audit.refusals(store, Action.MODEL_ASSIGN, ref), store.write() as connection:
        owner = None if team is None else teams.get(connection, team, lock=True).id
        registry.assign(connection, registry.get(connection, VersionRef.parse(ref)), owner)
    if json:
        output.print_json({"version": ref, "team": team})
    elif team is None:
        output.say(f"{ref} is everybody's.", f"{ref} は全チームで利用できます。")
    else:
        output.say(f"{ref} is {team}'s.", f"{ref} を {team} に割り当てました。")


def _tell(version: Version, settings: Settings, json: bool) -> None:
    if json:
        output.print_json(version_facts.brief(version, settings.layout))
    else:
        output.say(
            f"{version.ref} is registered. Serve it: sumika deploy ALIAS {version.ref}",
            f"{version.ref} を登録しました。配備するには: sumika deploy ALIAS {version.ref}",
        )
