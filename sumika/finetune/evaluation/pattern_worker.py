"""The child that searches for patterns which people wrote: they may take any time and memory. Imports nothing of Sumika's.

Reads {"pattern": …, "text": …} a line, and answers each with a line: 1 where the pattern is found, 0 where not.
"""

from __future__ import annotations

import json
import re
import resource
import sys

MEMORY = 256 * 2**20
SECONDS = 600


def main() -> None:
    for limit, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        _, already = resource.getrlimit(limit)
        most = most if already == resource.RLIM_INFINITY else min(most, already)
        resource.setrlimit(limit, (most, most))
    for line in sys.stdin:
        asked = json.loads(line)
        found = re.search(asked["pattern"], asked["text"]) is not None
        sys.stdout.write(f"{found:d}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
