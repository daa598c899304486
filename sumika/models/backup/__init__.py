"""Everything a Sumika knows and has, in one file, and back onto a bare machine."""

from sumika.models.backup.making import Made, make
from sumika.models.backup.restoring import restore

__all__ = ["Made", "make", "restore"]
