"""The exported file alone: what it imports, how it reads safetensors, and that its answers are the student's."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline import ngram, ngram_bag
from pipeline.ngram_bag import NgramClassifier, read_safetensors
from pipeline.runtime import load_classifier


def test_it_imports_numpy_and_the_standard_library_alone():
    tree = ast.parse(Path(ngram_bag.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {"numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize("seed", range(3))
def test_safetensors_are_read_as_their_own_library_reads_them(tmp_path, seed):
    rng = np.random.default_rng(seed)
    kinds = (np.float32, np.float16, np.int8, np.uint8)
    tensors = {
        f"{kind.__name__}.{rank}": rng.integers(0, 100, tuple(rng.integers(1, 9, rank))).astype(kind)
        for kind in kinds
        for rank in (0, 1, 2)
    }
    save_file(tensors, tmp_path / "t.safetensors", metadata={"format": "pt"})
    found, expected = read_safetensors(tmp_path / "t.safetensors"), load_file(tmp_path / "t.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        assert (found[name] == values).all() and found[name].flags.aligned


def test_a_format_that_no_bag_has_is_named(tmp_path):
    save_file({"long": np.zeros(2, dtype=np.int64)}, tmp_path / "t.safetensors")
    with pytest.raises(KeyError, match="I64"):
        read_safetensors(tmp_path / "t.safetensors")


@pytest.mark.parametrize("method", ["none", "fp16", "int8_dynamic", "int4"])
def test_alone_it_answers_as_the_student(tiny_ngram, tiny_comments, tmp_path, method):
    """In a process that sees the copied file, the weights, and nothing of this project."""
    folder = tmp_path / "alone"
    if method == "none":
        shutil.copytree(tiny_ngram.path, folder)
    else:
        folder.mkdir()
        ngram.quantize_ngram(method, 4, tiny_ngram.path, folder)
    shutil.copy(ngram_bag.__file__, folder / "ngram_bag.py")
    texts = list(tiny_comments.test.texts[:30])
    program = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, '.'); sys.modules['safetensors'] = None\n"
        "from ngram_bag import NgramClassifier\n"
        "answers = NgramClassifier(Path('.')).predict_logits(json.load(sys.stdin))\n"
        "print(json.dumps(answers.astype(float).tolist())); assert 'pipeline' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", program], input=json.dumps(texts), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = load_classifier(folder).predict_logits(texts)
    assert (np.array(json.loads(done.stdout)) == expected).all()


def test_the_student_s_classifier_is_the_exported_one(tiny_ngram):
    classifier = load_classifier(tiny_ngram.path)
    assert isinstance(classifier, NgramClassifier) and isinstance(classifier, ngram.NgramClassifier)
    assert classifier.hashing == ngram.Hashing(**json.loads((tiny_ngram.path / "hashing.json").read_text()))
