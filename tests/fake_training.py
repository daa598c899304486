"""Stands in for `sumika finetune run` where a test needs a training that does as it is told, by its job's name:

`quick` ends well, `worse` is refused by its gate, `slow` steps until it is asked to stop and saves then, `broken` fails with
an error, `killed` is killed each time, `once` is killed the first time only. `spy` looks at files that are none of its own, `hangs`
does nothing for ever, `deaf` too once it was asked to end, `floods` writes output without end, `vandal` leaves rubbish in its folder, `squats`
leaves a process that keeps the folder's lock. What was ordered through the API is prepared
first; `unfit` is found wrong then.
"""

from __future__ import annotations

import fcntl
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
    if "--prepare" in sys.argv:
        prepare(config, run)
    parent = int(sys.argv[sys.argv.index("--parent") + 1])
    name = yaml.safe_load(config.read_text(encoding="utf-8"))["job"]["name"]
    saved = run / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    asked: list[int] = []
    misbehave(name, run, parent)
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    say(f"{name} from step {step}\n")
    (run / "environment.json").write_text(json.dumps(dict(os.environ)))
    while True:
        step += 1
        saved.write_text(str(step))
        say(f"step {step}\n")
        sys.stdout.flush()
        with (run / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps({"step": step, "loss": 1 / step, "at": int(time.time())}) + "\n")
        time.sleep(0.05)
        while name == "deaf":
            time.sleep(60)
        if asked or os.getppid() != parent:
            sys.exit(130)
        if name == "broken":
            sys.exit("the disk is full")
        if name in ("killed", "vandal", "squats") or (name == "once" and step == 3):
            os.kill(os.getpid(), signal.SIGKILL)
        if name in ("quick", "worse", "once", "spy", "floods") and step >= 5:
            gate = "refused" if name == "worse" else "passed"
            (run / "result.json").write_text(json.dumps({"version": f"{name}@1", "gate": gate}))
            sys.exit(2 if name == "worse" else 0)


def misbehave(name: str, run: Path, parent: int) -> None:
    if name == "spy":
        spy(run, parent)
    if name == "floods":
        for _ in range(3_000):
            say("x" * 100_000 + "\n")
        time.sleep(1)
    if name == "vandal":
        vandalise(run)
    if name == "squats" and os.fork() == 0:
        squat(run)
    while name == "hangs":
        time.sleep(60)


def vandalise(run: Path) -> None:
    (run / "progress.json").write_text(json.dumps({"steps": "many", "step": [1], "state": {}}))
    (run / "config.yaml").write_text("[1, 2]")
    (run / "order.json").write_text('{"model": 1}')
    (run / "result.json").unlink(missing_ok=True)
    os.mkfifo(run / "result.json")
    (run / "train.log").unlink()
    os.mkfifo(run / "train.log")
    os.kill(os.getpid(), signal.SIGKILL)


def squat(run: Path) -> None:
    os.setsid()
    fcntl.flock(os.open(run / ".lock", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
    while not (run / "leave").exists():
        time.sleep(0.1)
    os._exit(0)


def spy(run: Path, parent: int) -> None:
    """Leave in `seen.json` what could be seen."""

    def can(file: Path, how: str) -> bool:
        try:
            with file.open(how):
                return True
        except OSError:
            return False

    files = map(Path, json.loads((run / "look_at.json").read_text()))
    seen = {
        "read": [str(file) for file in files if can(file, "rb")],
        "environment of its parent": can(Path(f"/proc/{parent}/environ"), "rb"),
        "written outside": can(run.parent / "mine", "w"),
    }
    (run / "seen.json").write_text(json.dumps(seen))


def prepare(config: Path, run: Path) -> None:
    name = json.loads((run / "order.json").read_text())["name"]
    if name == "unfit":
        error = {"code": "bad_data", "en": "line 3: no answer", "ja": "3 行目: 応答がありません", "param": "training_file"}
        (run / "check.json").write_text(json.dumps({"error": error}))
        sys.exit(1)
    config.write_text(yaml.safe_dump({"job": {"name": name}}))
    (run / "check.json").write_text(json.dumps({"memory_bytes": 1}))
    sys.exit(0)


main()
