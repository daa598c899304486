"""Jobs that were ordered through the API: from what a client asked to a job's YAML, its data beside it."""

from sumika.finetune.ordered.prepare import prepare

__all__ = ["prepare"]
