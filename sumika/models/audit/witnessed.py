"""What a witness kept of the checkpoints it was told of: its own file, or a log server's, of which we read our lines."""

from __future__ import annotations

from pathlib import Path

from sumika.models.audit import checkpoints
from sumika.models.audit.findings import Witnessed

# How every line of ours begins (`canonical`: keys in order); a log server puts its own words before it.
_BEGIN = b'{"at":"'


def read(file: Path) -> Witnessed:
    """Lines that somebody signed, whoever it was: a key that was replaced here since is no reason to believe the witness less.

    Raises:
        OSError: where the file can't be read.
    """
    hashes: dict[int, set[str]] = {}
    good = ignored = 0
    with file.open("rb") as lines:
        for line in lines:
            begin = line.rfind(_BEGIN)  # what was put before it, or cut short there, is not ours
            told = checkpoints.opened(line[begin:].rstrip()) if begin >= 0 else None
            if told is None:
                ignored += 1
                continue
            good += 1
            hashes.setdefault(told.seq, set()).add(told.hash)
    return Witnessed({seq: frozenset(some) for seq, some in hashes.items()}, good, ignored)
