"""Everything that may stand in the log's `action` column: the noun, a dot, what was done to it."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    ALIAS_ABORT = "alias.abort"
    ALIAS_CANARY = "alias.canary"
    ALIAS_DEPLOY = "alias.deploy"
    ALIAS_PROMOTE = "alias.promote"
    ALIAS_ROLLBACK = "alias.rollback"
    AUDIT_EXPORT = "audit.export"
    AUDIT_GAP = "audit.gap"
    """Rows of requests that could not be kept: how many."""
    AUDIT_OPEN = "audit.open"
    """Somebody read the sealed content of a request."""
    AUDIT_PRUNE = "audit.prune"
    AUTH_REFUSED = "auth.refused"
    """Answers 401 and 403 to one peer within one minute: how many."""
    BASE_SCALE = "base.scale"
    DATA_AFFECTED = "data.affected"
    DATA_REPORT = "data.report"
    FINETUNE_RUN = "finetune.run"
    INFERENCE_CHAT = "inference.chat"
    INFERENCE_COMPLETION = "inference.completion"
    JOB_CANCEL = "job.cancel"
    JOB_RESUME = "job.resume"
    JOB_SUBMIT = "job.submit"
    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    LIMITS_CLEAR = "limits.clear"
    LIMITS_SET = "limits.set"
    MODEL_EXPORT = "model.export"
    MODEL_IMPORT = "model.import"
    MODEL_PULL = "model.pull"
    MODEL_REMOVE = "model.remove"
    SIGNING_TRUST = "signing.trust"
