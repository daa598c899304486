"""Everything a Sumika knows and has, in one file, signed and encrypted, and back onto a bare machine."""

from sumika.models.backup.making import Made, make, stream
from sumika.models.backup.restoring import Restored, restore

__all__ = ["Made", "Restored", "make", "restore", "stream"]
