"""Where the files lie that a job names: itself on the command line; of a job from the network, as copies in its run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sumika.models import runfiles
from sumika.models.errors import SumikaError
from sumika.models.home import write_atomically


@dataclass(frozen=True, slots=True)
class Inputs:
    """`paths`: what the job says, and the file or folder that is meant. `from_network`: whoever sent the job sees its messages,
    so they repeat no names of columns, which may be the first row of a file without a header."""

    paths: Mapping[Path, Path] = field(default_factory=dict)
    from_network: bool = False

    def locate(self, name: Path) -> Path:
        return self.paths.get(name, name)


def of_run(run: Path) -> Inputs:
    """Of the run in `run`; none where its job names its files by their paths."""
    kept = runfiles.inputs(run)
    paths = {Path(name): run / path for name, path in kept.get("paths", {}).items()}
    return Inputs(paths, bool(kept.get("from_network")))


def keep(run: Path, inputs: Inputs, sha256: Mapping[str, str]) -> None:
    """Note where the files of a job lie and what was in them (`sha256` by the name that messages give a file)."""
    paths = {str(name): str(path.relative_to(run) if path.is_relative_to(run) else path) for name, path in inputs.paths.items()}
    kept = {"paths": paths, "from_network": inputs.from_network, "sha256": dict(sha256)}
    write_atomically(run / runfiles.INPUTS, json.dumps(kept, ensure_ascii=False, indent=1).encode() + b"\n", mode=0o600)


def check_unchanged(run: Path, sha256: Mapping[str, str]) -> None:
    """Hold the files as they were read now against those that the job was checked with.

    Raises:
        SumikaError: `data_changed` (409).
    """
    known = runfiles.inputs(run).get("sha256", {})
    changed = sorted(name for name in {*known, *sha256} if known.get(name) != sha256.get(name))
    if known and changed:
        names = ", ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
        raise SumikaError(
            "data_changed",
            f"Data of this job is not what it was when the job was checked: {names}. Put the files back, or submit the job again.",
            f"このジョブのデータが検査時から変わっています: {names}。ファイルを元に戻すか、ジョブを登録し直してください。",
            status=409,
        )
