"""What runs on the workers: its store under the stage clock, in a process that waits and then hangs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from pipeline.cache import Store

WAITS_THEN_HANGS = """
import sys, time
from pathlib import Path
from cluster.limits import CLOCK
from search.worker import ClockedStore

def quick(folder):
    return {"built by": "the waiting one"}

def hangs(folder):
    time.sleep(60)

store = ClockedStore(Path(sys.argv[1]))
with CLOCK.limited(1 / 60):
    print("asks", flush=True)
    print(store.add("toy", "shared", quick).notes["built by"], flush=True)
    time.sleep(0.6)
    store.add("toy", "own", hangs)
"""


def test_a_wait_for_another_workers_build_does_not_count_and_a_build_of_its_own_does(tmp_path: Path) -> None:
    building, may_end = threading.Event(), threading.Event()

    def build(folder: Path) -> dict[str, str]:
        building.set()
        may_end.wait(60)
        return {"built by": "the first one"}

    other = threading.Thread(target=lambda: Store(tmp_path).add("toy", "shared", build))
    other.start()
    assert building.wait(30)
    command = [sys.executable, "-c", WAITS_THEN_HANGS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "asks\n"
        time.sleep(2.5)
        may_end.set()
        said, traces = waiting.communicate(timeout=60)
    other.join()
    assert said == "the first one\n", "it lived through a wait longer than its limit"
    assert waiting.returncode == 1 and "in hangs" in traces


def test_a_worker_does_not_wait_for_what_only_the_driver_needs() -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'optuna', 'sqlalchemy', 'mlflow', 'matplotlib'}"
    code = f"import sys, search.worker; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr
