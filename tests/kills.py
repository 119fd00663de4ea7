"""Start a training again and again and kill -9 it each time: `python tests/kills.py KILLS FLAGS...`

Every start is a process of its own, forked from this one, which has imported everything already.
Half of the kills come at a random moment, the others while a checkpoint is being written. Prints a
JSON line for each kill: when it came, and the newest checkpoint before and after the start.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from train_nni import main


def newest(output: Path) -> str:
    """Name of the newest whole checkpoint; empty where there is none."""
    return max((p.name for p in output.glob("epochs/*") if p.name[0] != "."), default="")


def start(flags: list[str]) -> int:
    """Number of a new process that trains."""
    pid = os.fork()
    if pid:
        return pid
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    os._exit(main(flags))


def being_written(output: Path) -> list[str]:
    """Files of a checkpoint that is not whole yet."""
    return [str(file) for file in output.glob("epochs/.tmp-*/*")]


def kill_in_time(pid: int, output: Path, rng: random.Random, *, writing: bool) -> bool:
    """Kill a training; False if it came to its end before, or did not get anywhere in 60 s."""
    give_up = time.monotonic() + (60 if writing else rng.uniform(0, 1.5))
    while time.monotonic() < give_up and not (writing and being_written(output)):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    if writing:
        time.sleep(rng.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def run(kills: int, flags: list[str]) -> None:
    """Kill `kills` trainings of the same run."""
    output = Path(flags[flags.index("--output") + 1])
    rng = random.Random(0)
    for number in range(kills):
        before, writing = newest(output), number % 2 == 1
        killed = kill_in_time(start(flags), output, rng, writing=writing)
        if not killed:
            sys.exit(f"start {number} ended by itself")
        facts = {"torn": being_written(output), "before": before, "after": newest(output)}
        print(json.dumps({"writing": writing, **facts}), flush=True)


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2:])
