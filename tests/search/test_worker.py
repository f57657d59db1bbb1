"""What runs on the workers: its store under the stage clock, in a process that waits and then hangs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.cache import Store
from pipeline.remote import RemoteRefused
from pipeline.storage import open_store
from search.faults import is_refused, may_pass
from search.study_file import study_from
from search.worker import _curves_of

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


class Expired(BaseHTTPRequestHandler):
    """What S3 answers when temporary credentials have expired."""

    def do_GET(self) -> None:
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store that refuses everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Expired) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "of-this-test")
        monkeypatch.setenv("PARETO_CACHE", str(tmp_path / "cache"))
        yield "s3://bucket/prefix"
        server.shutdown()


def test_expired_credentials_last_for_this_run_and_not_for_the_next(expired: str) -> None:
    store = open_store(expired)
    for use in (lambda: store.find("data", "0123"), lambda: store.add("data", "0123", lambda folder: {})):
        with pytest.raises(RemoteRefused, match="the store refuses") as refused:
            use()
        failed = RuntimeError("the trial failed")
        failed.__cause__ = refused.value
        for error in (refused.value, failed):
            assert is_refused(error) and not may_pass(error)
    assert not is_refused(OSError("AWS Error NETWORK_CONNECTION"))


def test_a_trial_that_failed_as_the_store_refuses_can_say_so(expired: str, tmp_path: Path) -> None:
    """Its curves, which it would tell with its error, are not to be had from that store."""
    config = study_from({"study": "smoke", "storage": expired, "results_dir": str(tmp_path / "results")})
    Store(open_store(expired).root).add("data", "0123", lambda folder: {})
    assert _curves_of([{"stage": "after_kd", "model_key": "gone"}], config, "0123") == []
