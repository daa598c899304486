"""Where that lies which comes with Sumika beside its code: `configs/`, `docs/`, `constraints/`."""

from __future__ import annotations

import sys
from pathlib import Path

import sumika

_SOURCE = Path(sumika.__file__).parents[1]
TREE = _SOURCE if (_SOURCE / "pyproject.toml").is_file() else Path(sys.prefix).parent
"""The checkout; or, of an image or a bundle, the folder that holds the environment."""


def shipped(path: Path) -> Path:
    """`path` (relative) under the folder in hand, where somebody keeps their own; else the one that came with Sumika.

    A service's folder in hand is its home, which holds no configs.
    """
    return path if path.exists() else TREE / path
