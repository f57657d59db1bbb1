"""Which models count as equally fast."""

import json
import shutil

import pytest

from evaluation.shape import shape_of
from pipeline.manifest import MANIFEST


@pytest.fixture
def copied(tiny_teacher, tmp_path):
    shutil.copytree(tiny_teacher.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_other_values_of_weights_are_the_same_shape(tiny_teacher, copied):
    [weights] = [file for file in copied.rglob("*.safetensors")]
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (copied / MANIFEST).write_text("{}", encoding="utf-8")
    assert weights.read_bytes() != (tiny_teacher.path / weights.relative_to(copied)).read_bytes()
    assert shape_of(copied) == shape_of(tiny_teacher.path)


def test_another_setting_or_size_or_file_is_another_shape(tiny_teacher, copied):
    shapes = {shape_of(copied)}
    [settings] = [file for file in copied.rglob("config.json")]
    settings.write_text(json.dumps(json.loads(settings.read_text("utf-8")) | {"hidden_act": "relu"}), encoding="utf-8")
    shapes.add(shape_of(copied))
    [weights] = [file for file in copied.rglob("*.safetensors")]
    with weights.open("ab") as file:
        file.write(b"\0")
    shapes.add(shape_of(copied))
    (copied / "more.onnx").write_bytes(b"")
    shapes.add(shape_of(copied))
    assert len(shapes) == 4


def test_models_of_other_formats_are_of_other_shapes(tiny_teacher, tiny_half, tiny_int8, tiny_classical):
    assert len({shape_of(model.path) for model in (tiny_teacher, tiny_half, tiny_int8, tiny_classical)}) == 4
