"""What engines and trainings may see of this machine: a closed list, held by bubblewrap or by Landlock."""

from sumika.models.sandbox.kinds import Kind, Setting, choose, inside, usable
from sumika.models.sandbox.view import View

__all__ = ["Kind", "Setting", "View", "choose", "inside", "usable"]
