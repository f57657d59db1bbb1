"""Stages whose code is imported when they first run."""

import subprocess
import sys
from importlib import import_module
from inspect import signature

import pytest

from pipeline import stages
from pipeline.artifact import Stage
from pipeline.cache import Store
from pipeline.config import DistilConfig

ALL = {name: value for name, value in vars(stages).items() if isinstance(value, Stage)}


@pytest.mark.parametrize("name", ALL)
def test_each_runs_a_function_that_is_there(name):
    module = ALL[name].load()
    assert list(signature(getattr(module, name)).parameters)[:2] == ["config", "folder"]


def test_trials_and_workers_are_imported_without_what_trains():
    heavy = "{'torch', 'transformers', 'sklearn', 'onnx', 'onnxruntime', 'scipy.stats'}"
    program = f"import sys, search.worker, search.trial; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_that_is_there_imports_nothing_and_imports_are_no_part_of_a_stages_seconds(tmp_path, tiny_data):
    loaded = []

    def load():
        loaded.append(import_module("time").sleep(0.5))

    made = Stage("distil", 1, lambda config, folder, *inputs: {}, load)
    first = Store(tmp_path).run(made, DistilConfig(method="logit"), tiny_data)
    again = Store(tmp_path).run(made, DistilConfig(method="logit"), tiny_data)
    assert len(loaded) == 1 and first.seconds < 0.5
    assert again.cache_hit and again.key == first.key
