"""Peak memory: the weights of a model are in it, the runtime is not."""

import os

import pytest
import torch

from evaluation import memory
from evaluation.memory import peak_cuda_memory_mb, peak_memory_mb
from pipeline.config import TeacherConfig
from pipeline.encoder_artifact import save_encoder
from pipeline.models import build_scratch

TEXTS = [f"comment {i}" for i in range(4)]


def encoder_folder(folder, tokenizer, vocabulary):
    """A deployable folder with random weights and `vocabulary` embeddings of 128 numbers."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    torch.manual_seed(0)
    config = TeacherConfig(scratch_layers=1, scratch_width=128, scratch_heads=2, max_tokens=48)
    save_encoder(build_scratch(config, 3, vocabulary), folder, ("a", "b", "c"), 48)
    return folder


def test_peak_memory_grows_with_the_model(tmp_path, tiny_teacher):
    tokenizer = tiny_teacher.path / "tokenizer.json"
    small, large = (
        peak_memory_mb(encoder_folder(tmp_path / str(vocabulary), tokenizer, vocabulary), TEXTS, 1)
        for vocabulary in (400, 80_000)
    )
    weights_mb = (80_000 - 400) * 128 * 4 / 2**20  # 39 MiB
    assert 0 < small < 60
    assert 0.9 * weights_mb < large - small < 4 * weights_mb


def test_peak_memory_does_not_hang_on_what_was_measured_before(tmp_path, tiny_teacher):
    tokenizer = tiny_teacher.path / "tokenizer.json"
    small, large = (encoder_folder(tmp_path / str(size), tokenizer, size) for size in (400, 80_000))
    first, _, again = (peak_memory_mb(folder, TEXTS, 1) for folder in (small, large, small))
    assert again == pytest.approx(first, abs=0.5)


def test_peak_memory_is_measured_after_its_process_was_killed(tiny_teacher):
    first = peak_memory_mb(tiny_teacher.path, TEXTS, 1)
    probe = memory._probes["onnxruntime", os.getpid()]
    probe.kill()
    probe.wait()
    assert peak_memory_mb(tiny_teacher.path, TEXTS, 1) == pytest.approx(first, abs=0.5)


def test_peak_memory_of_a_model_that_cannot_be_loaded_is_an_error_and_the_next_is_measured(tmp_path, tiny_teacher):
    broken = encoder_folder(tmp_path / "broken", tiny_teacher.path / "tokenizer.json", 400)
    (broken / "model.onnx").write_bytes(b"none")
    with pytest.raises(RuntimeError, match=rf"{broken} could not be measured: .*(?i:protobuf|model\.onnx)"):
        peak_memory_mb(broken, TEXTS, 1)
    assert peak_memory_mb(tiny_teacher.path, TEXTS, 1) > 0


def test_peak_memory_of_a_folder_that_cannot_be_loaded_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*deploy\.json"):
        peak_memory_mb(tmp_path, ["a"], 1)


def test_peak_memory_is_unknown_where_the_system_does_not_tell_it(tmp_path, tiny_teacher, monkeypatch):
    monkeypatch.setattr(memory, "PROCESS_STATUS", tmp_path / "none")
    assert peak_memory_mb(tiny_teacher.path, TEXTS, 1) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the allocator has nothing to count")
def test_peak_cuda_memory_is_what_was_held_at_once():
    held = torch.ones(2**20, device="cuda")  # 4 MiB, there before

    def work():
        first = torch.ones(8 * 2**20, device="cuda")  # 32 MiB
        second = first + held.sum()  # another 32 beside them
        del first, second
        torch.ones(2**20, device="cuda")

    assert peak_cuda_memory_mb(work) == pytest.approx(64, abs=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_peak_cuda_memory_without_a_device_is_an_error_that_says_so():
    with pytest.raises(RuntimeError, match="no CUDA device"):
        peak_cuda_memory_mb(list)
