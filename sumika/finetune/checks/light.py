"""Reading a tokenizer without torch: transformers loads it wherever it finds it, which takes five seconds and 500 MB."""

from __future__ import annotations

import os
import sys


def without_torch() -> None:
    """Load transformers so that it does not find torch. For a process that only checks and then ends: from here on
    transformers believes that there is none. Does nothing where either is loaded already."""
    if "torch" in sys.modules or "transformers" in sys.modules:
        return
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would say that models can't be loaded
    sys.modules["torch"] = None  # type: ignore[assignment]  # the import system's way to say: not here
    try:
        from transformers import AutoTokenizer  # noqa: F401
    finally:
        del sys.modules["torch"]
