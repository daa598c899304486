"""Who acts: what a write transaction belongs to, for the audit log and the history."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """`name`: a key's id, an OIDC subject, `cli:USER@HOST` or `system`. `role`: what they acted as then. `source`: where they acted from: an
    address, or who logged in at the shell. Empty: not known."""

    name: str
    role: str = ""
    source: str = ""


# Sumika by itself: the supervisor, the gateway's own loops, the first start.
SYSTEM = Actor("system", "system")
# A store that was opened without saying for whom. Said as it is, so that no row names somebody who did not act.
UNNAMED = Actor("unnamed")
