"""The audit log: who did what, when, with what outcome; append-only, chained by hashes, signed outside the database."""

from sumika.models.audit.actions import Action
from sumika.models.audit.acts import refusals, told
from sumika.models.audit.chain import append

__all__ = ["Action", "append", "refusals", "told"]
