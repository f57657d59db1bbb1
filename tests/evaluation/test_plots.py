import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import evaluation.plots
from evaluation.plots import plot_front, staircase

TITLE = "বাংলা শুভ $speech_50%$ <script> \\frac{ =1 & `x` " + "long " * 40


def models() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {"stage": "baseline", "model_size_mb": 91.2, "f1_macro": 0.861, "speedup_factor": 1.0},
        {"stage": "classical", "model_size_mb": 8.2, "f1_macro": 0.79, "speedup_factor": 9.0},
        {"stage": "after_kd", "model_size_mb": None, "f1_macro": 0.8, "speedup_factor": 9.0},
        {"stage": "after_kd", "model_size_mb": 20.0, "f1_macro": 0.8, "speedup_factor": None},
        {"stage": "after_kd", "model_size_mb": 21.0, "f1_macro": 0.8, "speedup_factor": -1.0},
    ]
    for _ in range(20):
        size, f1 = float(rng.uniform(8, 90)), float(rng.uniform(0.8, 0.86))
        rows.append({"stage": "after_kd", "model_size_mb": size, "f1_macro": f1, "speedup_factor": 90 / size})
    verdicts = ["safe", "inconclusive", "unsafe", None]
    trials = pd.DataFrame(rows).assign(status="ok", model_key=[f"k{i}" for i in range(len(rows))])
    return trials.assign(safety_verdict=[verdicts[i % 4] for i in range(len(rows))])


def front_of(trials: pd.DataFrame) -> pd.DataFrame:
    chosen = trials[trials["safety_verdict"].ne("unsafe")].iloc[4:9]
    return chosen.assign(on_front=True, on_safe_front=chosen["safety_verdict"].eq("safe"))


def draw(folder: Path, trials: pd.DataFrame, front: pd.DataFrame, **changes: Any) -> tuple[Path, Path]:
    png, pdf = folder / "front.png", folder / "front.pdf"
    plot_front(trials, front, png, pdf, **{"title": TITLE, "synthetic": True, **changes})
    return png, pdf


def test_figures_are_written_with_margins_and_colour(tmp_path: Path) -> None:
    png, pdf = draw(tmp_path, models(), front_of(models()))
    image = matplotlib.image.imread(png)[..., :3]
    assert image.shape[0] > 600
    assert image.shape[1] > 900
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 1).all(), "something reaches the edge of the figure, and may be cut"
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.stat().st_size > 5000


def test_what_the_figure_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    draw(tmp_path, models(), front_of(models()))
    draw(tmp_path, models(), front_of(models()), synthetic=False, title="plain")
    said = [{text.get_text() for text in figure.findobj(Text)} for figure in (figures[0], figures[2])]
    expected = {"teacher", "classical floor", "safe", "inconclusive", "unsafe", "not checked", "Pareto front"}
    assert said[0] >= expected | {"safe front", "Speed-up over teacher (×)", "Model size (MB)"}
    title = figures[0].axes[0].get_title()
    assert title.startswith("[U+09AC U+09BE")
    assert title.endswith("\nsynthetic sample")
    assert figures[2].axes[0].get_title() == "plain"
    assert figures[0].axes[0].get_xscale() == "log"


def test_names_of_teacher_and_floor_cover_no_point_and_stay_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    trials = models()
    near = trials.iloc[[0]].assign(stage="after_kd", model_key="near", f1_macro=0.858, model_size_mb=88.0)
    right_of_floor = trials.iloc[[1]].assign(stage="after_kd", model_key="right", model_size_mb=10.0)
    trials = pd.concat([trials, near, right_of_floor], ignore_index=True)
    draw(tmp_path, trials, front_of(trials))
    axes = figures[0].axes[0]
    names = axes.findobj(Annotation)
    assert sorted(name.get_text() for name in names) == ["classical floor", "teacher"]
    points = axes.transData.transform(trials[["model_size_mb", "f1_macro"]].dropna().to_numpy())
    boxes = [name.get_window_extent() for name in names]
    assert not boxes[0].overlaps(boxes[1])
    for box in boxes:
        assert box.count_contains(points) == 0
        assert axes.bbox.contains(box.x0, box.y0)
        assert axes.bbox.contains(box.x1, box.y1)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 1), slice(3, 4)])
def test_few_or_no_models(tmp_path: Path, rows: slice) -> None:
    trials = models().iloc[rows]
    png, pdf = draw(tmp_path, trials, trials[:0])
    assert png.stat().st_size > 3000
    assert pdf.stat().st_size > 3000


def test_failed_rows_and_repeated_models_are_drawn_once_or_not() -> None:
    trials = models().iloc[:4]
    failed = trials.iloc[[0]].assign(status="failed", model_key=None, model_size_mb=None)
    drawn = evaluation.plots._drawable(pd.concat([trials, trials, failed]))
    assert sorted(drawn["model_key"]) == ["k0", "k1", "k3"]


def test_same_data_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Sets and dictionaries of text have another order there, as their hashes have another seed."""
    trials = models()
    trials.to_pickle(tmp_path / "trials.pickle")
    front_of(trials).to_pickle(tmp_path / "front.pickle")
    png, pdf = draw(tmp_path, trials, front_of(trials), title="t")
    program = (
        "import sys; from pathlib import Path; import pandas as pd; from evaluation.plots import plot_front\n"
        "d = Path(sys.argv[1]); trials, front = (pd.read_pickle(d / f'{n}.pickle') for n in ('trials', 'front'))\n"
        "plot_front(trials, front, d / 'other.png', d / 'other.pdf', title='t', synthetic=True)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
    assert png.read_bytes() == (tmp_path / "other.png").read_bytes()
    assert pdf.read_bytes() == (tmp_path / "other.pdf").read_bytes()


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path, models(), front_of(models()))
    assert dict(matplotlib.rcParams) == before


def test_staircase_is_the_best_f1_at_or_below_each_size() -> None:
    rng = np.random.default_rng(3)
    sizes, f1 = rng.integers(1, 9, 40).astype(float), rng.random(40)
    xs, ys = staircase(sizes, f1)
    assert sorted(xs) == list(xs) == sorted(sizes)
    for x, y in zip(xs, ys, strict=True):
        assert y == f1[sizes <= x].max()


@pytest.mark.parametrize(("low", "high"), [(8, 92), (1, 1.1), (0.3, 4000), (99, 101), (1e-3, 2e-3), (1.0, 1.0001)])
def test_ticks_are_inside_and_few(low: float, high: float) -> None:
    ticks = evaluation.plots._round_numbers(low, high)
    assert 2 <= len(ticks) <= 10
    assert ticks == sorted(ticks)
    assert low * 0.999 <= ticks[0]
    assert ticks[-1] <= high * 1.001
