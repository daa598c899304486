"""Stands in for `sumika finetune run` where a test needs a training that does as it is told, by its job's name:

`quick` ends well, `worse` is refused by its gate, `slow` steps until it is asked to stop and saves then, `broken` fails with
an error, `killed` is killed each time, `once` is killed the first time only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

say = sys.stdout.write


def main() -> None:
    config, run = Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--run") + 1])
    parent = int(sys.argv[sys.argv.index("--parent") + 1])
    name = yaml.safe_load(config.read_text(encoding="utf-8"))["job"]["name"]
    saved = run / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    say(f"{name} from step {step}\n")
    (run / "environment.json").write_text(json.dumps(dict(os.environ)))
    while True:
        step += 1
        saved.write_text(str(step))
        say(f"step {step}\n")
        sys.stdout.flush()
        time.sleep(0.05)
        if asked or os.getppid() != parent:
            sys.exit(130)
        if name == "broken":
            sys.exit("the disk is full")
        if name == "killed" or (name == "once" and step == 3):
            os.kill(os.getpid(), signal.SIGKILL)
        if name in ("quick", "worse", "once") and step >= 5:
            gate = "refused" if name == "worse" else "passed"
            (run / "result.json").write_text(json.dumps({"version": f"{name}@1", "gate": gate}))
            sys.exit(2 if name == "worse" else 0)


main()
