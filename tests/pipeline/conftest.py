"""A finished study of tiny models: its results folder, as the search leaves it, over the store of the tiny chain."""

import json
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

CRITICAL = "threat"


@dataclass(frozen=True)
class TinyStudy:
    """A folder `results/STUDY` and the models that its rows are of."""

    folder: Path
    models: dict[str, Any]
    """By name: teacher, wanda, structured, int8, ngram, floor."""
    rows: dict[str, dict[str, Any]]
    """By the same names, with `test_*` columns where the model is on the front or a reference."""


@pytest.fixture(scope="session")
def tiny_ngram(tiny_store, tiny_data, tiny_teacher):
    """An n-gram student of the tiny teacher."""
    from pipeline.config import DistilConfig
    from pipeline.stages import distil

    small = {"buckets": 512, "dimension": 8, "hidden_width": 6, "ngram_epochs": 6}
    return tiny_store.run(distil, DistilConfig(method="logit", student="ngram", **small), tiny_data, tiny_teacher)


@pytest.fixture(scope="session")
def tiny_structured(tiny_store, tiny_data, tiny_teacher):
    """The teacher without some heads and neurons, more in one layer than in the other."""
    from pipeline.config import PruneConfig
    from pipeline.stages import prune

    config = PruneConfig(method="structured", ratio=0.4, epochs=1)
    return tiny_store.run(prune, config, tiny_data, tiny_teacher, tiny_teacher)


@pytest.fixture(scope="session")
def tiny_study(
    tmp_path_factory,
    tiny_store,
    tiny_data,
    tiny_teacher,
    tiny_pruned,
    tiny_structured,
    tiny_int8,
    tiny_ngram,
    tiny_classical,
):
    """Quality and drops are measured; sizes and times, and with them the front, are made up. Read-only for tests."""
    from evaluation.evaluator import CompressionEvaluator
    from evaluation.front import front_rows
    from evaluation.records import write_records
    from evaluation.safety import SafetyLimits
    from search.trial import ROW_STAGES

    models = {
        "teacher": tiny_teacher,
        "wanda": tiny_pruned,
        "structured": tiny_structured,
        "int8": tiny_int8,
        "ngram": tiny_ngram,
        "floor": tiny_classical,
    }
    # name: MB, times the teacher's speed, verdict on validation, on test (None: never answered on test)
    made_up = {
        "teacher": (90.0, 1.0, "safe", "safe"),
        "wanda": (80.0, 1.5, "safe", None),
        "structured": (30.0, 3.0, "inconclusive", "inconclusive"),
        "int8": (12.0, 4.0, "safe", "inconclusive"),
        "ngram": (2.0, 300.0, "safe", "safe"),
        "floor": (1.0, 20.0, "unsafe", "unsafe"),
    }
    settings = {
        "wanda": {"prune.method": "wanda", "prune.sparsity": 0.5},
        "structured": {"prune.method": "structured", "prune.ratio": 0.4},
        "int8": {"prune.method": "wanda", "prune.sparsity": 0.5, "quantize.method": "int8_dynamic"},
        "ngram": {"distil.method": "logit", "distil.student": "ngram", "distil.buckets": 512},
    }
    limits = SafetyLimits(CRITICAL)
    evaluator = CompressionEvaluator(tiny_store, tiny_data, tiny_teacher, limits, bootstrap_rounds=100)
    rows = {}
    for name, model in models.items():
        size, speedup, verdict, on_test = made_up[name]
        row = {
            "study": "tiny",
            "trial": None if name in ("teacher", "floor") else len(rows),
            "stage": ROW_STAGES[model.stage],
            "model_key": model.key,
            "status": "ok",
            **evaluator.quality(model, "validation"),
            **judged(evaluator.safety(model, "validation")),
            "safety_verdict": verdict,
            "model_size_mb": size,
            "latency_mean_ms": 15.0 / speedup,
            "speedup_factor": speedup,
            "machine": "a made-up machine",
            **settings.get(name, {}),
        }
        if on_test:
            tested = evaluator.quality(model, "test") | judged(evaluator.safety(model, "test"))
            row |= {f"test_{key}": value for key, value in tested.items()} | {"test_safety_verdict": on_test}
        rows[name] = row
    folder = tmp_path_factory.mktemp("tiny_results") / "tiny"
    write_study(folder, rows, tiny_store.root, front_rows, write_records, tiny_data)
    return TinyStudy(folder, models, rows)


def judged(safety):
    """The columns of a verdict."""
    columns = safety.to_flat_dict()
    del columns["safe_for_deployment"]
    return columns


def write_study(folder, rows, store_root, front_rows, write_records, data):
    """`study.yaml` and the three Parquet files."""
    import pandas as pd

    report = data.notes
    metadata = {
        "study": "tiny",
        "critical_label": CRITICAL,
        "label_columns": json.dumps(["bully", "sexual", CRITICAL]),
        "synthetic": "true",
        "data": json.dumps(report, ensure_ascii=False, default=str),
        "environment": json.dumps({"cpu": "a made-up processor", "onnxruntime": "1"}),
    }
    trials = [{k: v for k, v in row.items() if not k.startswith("test_")} for row in rows.values()]
    write_records(trials, folder / "trials.parquet", metadata=metadata)
    marked = front_rows(pd.DataFrame(trials))
    by_key = {row["model_key"]: row for row in rows.values()}
    front = [
        {**by_key[key], "on_front": bool(on), "on_safe_front": bool(safe)}
        for key, on, safe in zip(marked["model_key"], marked["on_front"], marked["on_safe_front"], strict=True)
    ]
    write_records(front, folder / "front.parquet", metadata=metadata)
    write_records([rows["teacher"], rows["floor"]], folder / "references.parquet", metadata=metadata)
    (folder / "study.yaml").write_text(
        f"study: tiny\nteacher: {{model: scratch}}\nsafety: {{critical_label: {CRITICAL}, max_f1_drop: 0.05}}\n"
        f"results_dir: {folder.parent}\nstorage: {store_root}\n",
        encoding="utf-8",
    )


class S3Server:
    """A server of the S3 protocol on a free port of loopback, named by the environment while a test uses it."""

    def __init__(self, monkeypatch):
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "of-this-test")
        self._buckets = 0

    def bucket(self):
        """The URL of a new, empty bucket."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self._ask("PUT", f"/{name}")
        return f"s3://{name}"

    @contextmanager
    def closed(self):
        """Nobody has any right meanwhile."""
        self._ask("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._ask("POST", "/moto-api/reset-auth", b"inf")

    def stop(self):
        self._server.stop()

    def _ask(self, method, path, body=None):
        with urlopen(Request(self.url + path, body, {"Content-Type": "text/plain"}, method=method)) as answer:
            answer.read()


@pytest.fixture(scope="module")
def s3():
    """A real S3 server with no bucket in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        server = S3Server(monkeypatch)
        yield server
        server.stop()


class Wire:
    """A TCP port that passes everything on to another, until it is cut, and again when it is mended."""

    def __init__(self, port):
        self._target, self._open = port, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.mend()

    def mend(self):
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener):
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._open += [here, there]
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def wire(s3, monkeypatch):
    """The server's port behind a wire; the environment names it."""
    wire = Wire(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{wire.port}")
    yield wire
    with suppress(OSError):
        wire.cut()
