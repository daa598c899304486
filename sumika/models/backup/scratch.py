"""A folder for what is being made: private, held while somebody makes it, and gone afterwards, even where the one before was killed."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sumika.models import locks

_LOCK = "lock"


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder within `parent`; what killed ones of the same `name` left there is removed first.

    Raises:
        OSError: where it can't be made.
    """
    for left in parent.glob(f".{glob.escape(name)}-*"):
        _remove(left)
    with ExitStack() as stack:
        new = Path(tempfile.mkdtemp(dir=parent, prefix=f".new-{name}-"))
        stack.callback(shutil.rmtree, new, ignore_errors=True)
        with suppress(OSError):  # a file system without locks: nobody's leftovers are removed there
            stack.enter_context(locks.held(new / _LOCK))
        folder = new.with_name(new.name.replace(".new-", ".", 1))  # others may look at it now that it is held
        new.rename(folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        work = folder / "work"
        work.mkdir(mode=0o700)
        yield work


def _remove(left: Path) -> None:
    with suppress(OSError), locks.held(left / _LOCK, wait=False) as alone:
        if alone:
            shutil.rmtree(left)
