"""Everything that can be known to fail before weights are loaded, in seconds and without torch."""

from sumika.finetune.checks.check import check
from sumika.finetune.checks.look import Looked, look
from sumika.finetune.checks.result import Checked

__all__ = ["Checked", "Looked", "check", "look"]
