"""The stages of a chain, with the versions of their behaviour; the code of one is imported when it first runs.

So who only asks for keys, or for models that are there, need not wait the seconds that PyTorch and Transformers take.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

from pipeline.artifact import Notes, Stage


def _imported_later(name: str, version: int, module: str, function: str) -> Stage:
    def build(*arguments: object) -> Notes:
        notes: Notes = getattr(import_module(module), function)(*arguments)
        return notes

    return Stage(name, version, build, partial(import_module, module))


train_teacher = _imported_later("teacher", 3, "pipeline.teacher", "train_teacher")
train_born_again = _imported_later("teacher", 1, "pipeline.born_again", "train_born_again")
train_classical = _imported_later("classical", 1, "pipeline.classical", "train_classical")
distil = _imported_later("distil", 2, "pipeline.distil", "distil")
prune = _imported_later("prune", 3, "pipeline.prune.stage", "prune")
quantize = _imported_later("quantize", 3, "pipeline.quantize.stage", "quantize")
