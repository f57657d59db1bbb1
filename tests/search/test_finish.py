"""What is said of a study at its end, on real, tiny models: the front within noise, and the flips."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from evaluation.flip_files import Flips, flip_table, write_flips_with_texts
from pipeline.cache import Store
from pipeline.data import load_data
from pipeline.runtime import load_classifier
from search import finish
from search.finish import SPLITS, flips_of, front_within_noise
from search.study_file import study_from
from search.trial import PARAMS, Row, find_model, reference_rows, run_trial
from search.workbench import Workbench

TINY: dict[str, Any] = {
    "study": "tiny",
    "seed": 5,
    "data": {"sample_rows": 500},
    "teacher": {
        "model": "scratch",
        "scratch_layers": 2,
        "scratch_width": 32,
        "scratch_vocabulary": 400,
        "epochs": 2,
        "learning_rate": 5e-3,
    },
    "prune": {"sparsity": 0.5, "epochs": 0},
    "safety": {"rounds": 200, "max_f1_drop": 1.0, "max_critical_f1_drop": 1.0, "max_critical_recall_drop": 1.0},
    "measure": {"seconds": 0.1, "requests": 20},
}
CHAIN = {"distil.method": "none", "prune.method": "magnitude", "quantize.method": "int8_dynamic"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    from pipeline.data import prepare

    config = study_from(TINY | {"results_dir": str(tmp_path_factory.mktemp("results"))})
    return Workbench.open(config, prepare(config.data).add_to(Store(config.store_root)).key)


@pytest.fixture(scope="module")
def rows(bench: Workbench) -> list[Row]:
    """Teacher, floor, pruned, pruned and quantized; their latencies replaced by figures that decide."""
    rows = [*reference_rows(bench, lambda stage, row: None), *run_trial(bench, CHAIN, lambda stage, row: None)]
    for row, speedup in zip(rows, (1.0, 4.0, 1.0, 2.0), strict=True):
        row |= {"speedup_factor": speedup, "speedup_low": speedup, "speedup_high": speedup}
    assert [row["stage"] for row in rows] == ["baseline", "classical", "after_pruning", "after_quantization"]
    return rows


def decisions(bench: Workbench, row: Row, split: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """What the deployed folder answers, at the thresholds that the row reports."""
    data = load_data(bench.data.path)
    logits = load_classifier(find_model(bench, row).path).predict_logits(getattr(data, split).texts, 1)
    thresholds = [row[f"thresholds.{label}"] for label in data.label_columns]
    return 1 / (1 + np.exp(-logits.astype(np.float64))) >= np.array(thresholds)


def test_the_front_within_noise_is_the_definition(bench: Workbench, rows: list[Row]) -> None:
    labels = load_data(bench.data.path).validation.labels
    weights = np.random.default_rng(5).standard_exponential((2000, len(labels)))
    answers = [decisions(bench, row, "validation") for row in rows]
    draws = np.array([[weighted_f1(labels, own, weight) for weight in weights[:400]] for own in answers])

    def beyond(j: int, i: int) -> bool:
        lower = np.quantile(draws[j] - draws[i], 0.05)
        assert (answers[i] == answers[j]).all() or abs(lower) > 0.002, "too near to call with 400 of 2000 draws"
        no_worse = lower >= 0 and rows[j]["model_size_mb"] <= rows[i]["model_size_mb"]
        return no_worse and rows[j]["speedup_factor"] >= rows[i]["speedup_factor"] and i != j

    expected = {row["model_key"] for i, row in enumerate(rows) if not any(beyond(j, i) for j in range(len(rows)))}
    found = front_within_noise(bench, rows)
    assert set(found) == expected and len(expected) > 0
    for key, flags in found.items():
        [row] = [row for row in rows if row["model_key"] == key]
        assert flags["on_front_within_noise"] or row["safety_verdict"] == "safe"
        assert not flags["on_safe_front_within_noise"] or row["safety_verdict"] == "safe"
    unsafe = [row | {"safety_verdict": "unsafe"} for row in rows[1:]]
    assert set(front_within_noise(bench, [rows[0], *unsafe])) == {rows[0]["model_key"]}
    failed: Row = {"status": "failed", "error": "torn", "model_key": None}
    assert front_within_noise(bench, [*rows, failed]) == found


def test_models_that_were_damaged_are_built_again_and_are_the_same(bench: Workbench, rows: list[Row]) -> None:
    """As the end of a study meets them: nothing else asks for them again."""
    teacher, floor, _, compact = rows
    before = finish.test_figures(bench, [teacher, floor, compact])
    for row in (teacher, floor, compact):
        model = find_model(bench, row)
        file = next(file for file in sorted(model.path.iterdir()) if file.suffix in (".safetensors", ".npz", ".onnx"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        shutil.rmtree(bench.store.root / "predictions", ignore_errors=True)
        again = find_model(bench, row | {PARAMS: CHAIN})
        assert (again.key, again.cache_hit) == (model.key, True) and file.read_bytes() != bytes(content)
    assert finish.test_figures(bench, [teacher, floor, compact]) == before
    with pytest.raises(FileNotFoundError, match="is gone; run the study again"):
        find_model(bench, compact | {"model_key": "0123456789abcdef"})


def test_the_teacher_is_trained_with_its_own_threads(bench: Workbench) -> None:
    """PyTorch's sums depend on them: built again by a trial, with those of a trial, it would be another one."""
    import torch

    seen: list[int] = []

    class Watched(Store):
        def run(self, *arguments: Any) -> Any:
            seen.append(torch.get_num_threads())
            return super().run(*arguments)

    before = torch.get_num_threads()
    for threads in (before + 1, None):
        Workbench(bench.config, Watched(bench.store.root), bench.data, threads).teacher()
    assert (seen, torch.get_num_threads()) == ([before + 1, before], before)


def weighted_f1(labels: Any, predictions: Any, weights: Any) -> float:
    hits, positives, predicted = (weights @ part for part in (labels * predictions, labels, predictions))
    return float(
        np.mean([2 * h / (p + q) if p + q else 0.0 for h, p, q in zip(hits, positives, predicted, strict=True)])
    )


def test_the_flips_are_those_of_the_deployed_models(bench: Workbench, rows: list[Row], tmp_path: Path) -> None:
    flips = flips_of(bench, rows)
    data = load_data(bench.data.path)
    assert flips.model_keys == tuple(row["model_key"] for row in rows)
    assert (flips.data_folder, flips.data_fingerprint) == (str(bench.data.path.resolve()), data.fingerprint)
    table = flip_table(flips, pd.DataFrame(rows)).set_index(["model_key", "split", "label"])
    assert len(table) == len(rows) * len(SPLITS) * len(data.label_columns)
    assert table.loc[rows[0]["model_key"], "newly_missed":"newly_cleared"].sum(axis=None) == 0, "the teacher itself"
    assert len(flips.rows) > 0
    for row in rows[1:]:
        for split in SPLITS:
            truth, teacher, own = (
                getattr(data, split).labels,
                decisions(bench, rows[0], split),
                decisions(bench, row, split),
            )
            of_model = flips.rows[flips.rows["model_key"].eq(row["model_key"]) & flips.rows["split"].eq(split)]
            where = [(c, data.label_columns[j]) for c, j in np.argwhere(teacher != own)]
            assert list(zip(of_model["comment"], of_model["label"], strict=True)) == where
            for j, label in enumerate(data.label_columns):
                change = confusion_matrix(truth[:, j], own[:, j]) - confusion_matrix(truth[:, j], teacher[:, j])
                line = table.loc[(row["model_key"], split, label)]
                assert line["newly_missed"] - line["newly_found"] == change[1, 0]
                assert line["newly_false"] - line["newly_cleared"] == change[0, 1]
                assert line["support"] == truth[:, j].sum()
    flips.save(tmp_path / "flips.parquet")
    assert Flips.read(tmp_path / "flips.parquet").supports == flips.supports
    texts = pd.read_csv(write_flips_with_texts(tmp_path))
    assert len(texts) == len(flips.rows)
    first = flips.rows.iloc[0]
    assert texts["text"].iloc[0] == getattr(data, first["split"]).texts[first["comment"]]
