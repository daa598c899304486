"""`sumika bundle`: all of Sumika in one signed file, for a machine without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from sumika.cli import output
from sumika.cli.bundling import images, laydown, pack
from sumika.cli.bundling.wheels import Source
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import audit, signing
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, quoted
from sumika.models.names import VersionRef
from sumika.models.settings import load_settings
from sumika.models.tree import TREE

app = typer.Typer(no_args_is_help=True, help="Everything in one signed file, for a machine without a network.")


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="The bundle to write, for example /media/usb/sumika.bundle.")],
    engine: Annotated[Literal["cuda", "cpu"], typer.Option(help="Which build of vLLM the closed machine needs.")] = "cuda",
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME@N", help="A version that comes along; repeat it for more.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--from", help="Take packages from this folder of wheels alone.")] = None,
    with_images: Annotated[
        bool, typer.Option("--images", help="Put the compose file's images in, from this machine's Docker.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is already there.")] = False,
    json: Json = False,
) -> None:
    """Gather packages by their pinned hashes, models and papers into one file, and sign it."""
    wanted = pack.Wanted(
        TREE / "constraints" / f"{engine}.txt",
        frozenset({engine, "finetune"}),
        [VersionRef.parse(ref) for ref in model or ()],
        images.named(TREE / "docker-compose.yml", os.environ) if with_images else [],
    )
    with opened() as (settings, store), audit.told(store, Action.BUNDLE_CREATE, quoted(file.name)) as told:
        with output.copy_progress(f"writing {file.name}", f"{file.name} を書き出し中") as progress:
            made = pack.create(store, settings.layout, TREE, wanted, Source(folder), file, force=force, progress=progress)
        key = told["key"] = signing.fingerprint(signing.show(settings.layout))
        told |= {"release": made.release, "models": made.models}
    if json:
        output.print_json({"file": str(file), "key": key, **{name: getattr(made, name) for name in made.__slots__}})
        return
    output.say(
        f"{made.release}: {made.packages} packages and {len(made.models)} models in {file} ({made.bytes / 2**30:.2f} GiB), signed by {key}. docs/airgap.md says how it is laid down.",
        f"{made.release}: パッケージ {made.packages} 件とモデル {len(made.models)} 件を {file} に書き出しました({made.bytes / 2**30:.2f} GiB、署名: {key})。導入手順は docs/airgap.md にあります。",
    )


@app.command()
def install(
    file: Annotated[Path, typer.Argument(help="The bundle.")],
    to: Annotated[Path, typer.Option(help="Where releases lie; TO/current is the one in use.")] = Path("/opt/sumika"),
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Even where the current release was made later than this one.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a bundle that a key trusted for bundles signed, lay its release down beside the others, and make it current.

    The first one on a machine is laid down by the install.py that is in it.
    """
    home = load_settings().layout
    signing.sort_trust(home)
    keys = [signing.line(key) for key in signing.trusted_keys(home, "bundles").values()]
    os.umask(0o022)  # programs are everybody's to read; weights and records, which are not, lie elsewhere
    try:
        with output.waiting(f"installing {file.name}", f"{file.name} を導入中"):
            laid = laydown.lay_down(file, keys, to, allow_downgrade=allow_downgrade)
    except laydown.Refused as refused:
        raise SumikaError("bad_bundle", refused.en, refused.ja) from None
    if json:
        output.print_json({"release": laid.release.name, "fresh": laid.fresh, "next": laydown.next_steps(laid, to)[1:]})
        return
    for line in laydown.next_steps(laid, to):
        typer.echo(line)
