"""The figure of a study: size against macro F1, the front and the safe front."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.escape import spell_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

_COLOURS = "cividis"
_UNMEASURED = "lightgrey"
_MARKERS = {"safe": "o", "inconclusive": "^", "unsafe": "X"}
_NO_VERDICT = "v"
_REFERENCES = {"baseline": ("teacher", "*", 420), "classical": ("classical floor", "s", 130)}
_FRONTS = {"on_front": ("Pareto front", "0.45", (0, (4, 2)), 1.4), "on_safe_front": ("safe front", "#D55E00", "-", 2.0)}
_STYLE: Any = {"font.family": ["DejaVu Sans"], "font.size": 10, "pdf.fonttype": 42, "text.usetex": False}


def plot_front(
    trials: pd.DataFrame, front: pd.DataFrame, path_png: Path, path_pdf: Path, *, title: str, synthetic: bool
) -> None:
    """Draw every measured model, by size (log MB) and macro F1, and the two fronts through the best of them.

    A front is the staircase of the largest macro F1 at or below each size, over the rows marked `on_front` or
    `on_safe_front`; a marked row below the staircase is on the front for its speed. The same data give the same bytes.

    Args:
        trials: rows of `trials.parquet`; those without size or macro F1, and failed ones, are not drawn.
        front: rows of `front.parquet`.
        path_png: where the bitmap goes.
        path_pdf: where the vector figure goes.
        title: any text; characters that the font lacks are written as code points.
        synthetic: whether the data is the generated sample, which the figure then says.
    """
    import matplotlib
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = _drawable(trials)
    heading = "\n".join(textwrap.wrap(_printable(title), 78)) + ("\nsynthetic sample" if synthetic else "")
    with matplotlib.style.context("default"), matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 6.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(heading, fontsize=11)
        axes.set_xlabel("Model size (MB)")
        axes.set_ylabel("Macro F1 on validation")
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        if models.empty:
            axes.text(0.5, 0.5, "no measured model", ha="center", va="center", transform=axes.transAxes)
        else:
            _draw(figure, axes, models, _drawable(front))
        for path, metadata in ((path_png, {"Software": None}), (path_pdf, {"CreationDate": None})):
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)


def _draw(figure: Figure, axes: Axes, models: pd.DataFrame, front: pd.DataFrame) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.lines import Line2D

    _set_limits(axes, models)
    norm = _speedup_norm(models)
    handles = _draw_fronts(axes, front)
    references = models["stage"].isin(_REFERENCES)
    verdicts = models["safety_verdict"].where(models["safety_verdict"].isin(_MARKERS), "not checked")
    for verdict, marker in {**_MARKERS, "not checked": _NO_VERDICT}.items():
        chosen = models[~references & (verdicts == verdict)]
        if not chosen.empty:
            _scatter(axes, chosen, norm, marker, 60)
            style = {"marker": marker, "markerfacecolor": "0.75", "markeredgecolor": "black"}
            handles.append(Line2D([], [], linestyle="", markersize=8, label=verdict, **style))  # type: ignore[arg-type]
    for stage, (_, marker, area) in _REFERENCES.items():
        _scatter(axes, models[models["stage"] == stage], norm, marker, area)
    if norm is not None:
        bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, label="Speed-up over teacher (\u00d7)")
        _plain_ticks(bar.ax.yaxis, float(norm.vmin or 1.0), float(norm.vmax or 1.0))
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)), frameon=False)
    _annotate(figure, axes, models)


def _drawable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that were measured, each model once, numbers as floats; a speed-up that is no positive number is NaN."""
    numbers = {
        name: pd.to_numeric(rows[name], errors="coerce").astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("model_size_mb", "f1_macro", "speedup_factor")
    }
    models: pd.DataFrame = rows.assign(**numbers)
    speedup = models["speedup_factor"]
    models["speedup_factor"] = speedup.where(np.isfinite(speedup) & (speedup > 0))
    measured = np.isfinite(models["model_size_mb"]) & (models["model_size_mb"] > 0) & np.isfinite(models["f1_macro"])
    drawn: pd.DataFrame = models[measured & models["status"].ne("failed")]
    return drawn.drop_duplicates("model_key", keep="last")


def _set_limits(axes: Axes, models: pd.DataFrame) -> None:
    low, high = float(models["model_size_mb"].min()), float(models["model_size_mb"].max())
    margin = max((high / low) ** 0.08, 1.15)
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    _plain_ticks(axes.xaxis, low / margin, high * margin)
    bottom, top = float(models["f1_macro"].min()), float(models["f1_macro"].max())
    padding = max(0.1 * (top - bottom), 0.01)
    axes.set_ylim(bottom - padding, top + padding)


def _speedup_norm(models: pd.DataFrame) -> LogNorm | None:
    from matplotlib.colors import LogNorm

    speedup = models["speedup_factor"].dropna()
    if speedup.empty:
        return None
    low, high = float(speedup.min()), float(speedup.max())
    return LogNorm(low, high) if high > low * 1.01 else LogNorm(low / 1.1, high * 1.1)


def _plain_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis at round numbers, written as such."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ticks = _round_numbers(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def _round_numbers(low: float, high: float) -> list[float]:
    """Some 2 to 10 round numbers in [low, high], 0 < low < high: of each decade, or evenly spread in a narrow range."""
    from matplotlib.ticker import MaxNLocator

    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        numbers = [float(f"{digit * 10.0**exponent:.4g}") for exponent in exponents for digit in digits]
        inside = [number for number in numbers if low <= number <= high]
        if len(inside) >= 3:
            return inside[:: -(-len(inside) // 9)]
    return [float(number) for number in MaxNLocator(6).tick_values(low, high) if low <= number <= high]


def _draw_fronts(axes: Axes, front: pd.DataFrame) -> list[Any]:
    lines = []
    for order, (column, (label, colour, style, width)) in enumerate(_FRONTS.items()):
        members = front[front[column].eq(True).fillna(False).astype(bool)] if column in front.columns else front[:0]
        if members.empty:
            continue
        sizes, best_f1 = staircase(members["model_size_mb"].to_numpy(), members["f1_macro"].to_numpy())
        sizes, best_f1 = np.append(sizes, axes.get_xlim()[1]), np.append(best_f1, best_f1[-1])
        lines += axes.step(
            sizes,
            best_f1,
            where="post",
            color=colour,
            linestyle=style,
            linewidth=width,
            label=label,
            zorder=1.5 + order / 10,
        )
    return lines


def staircase(
    sizes: npt.NDArray[np.float64], f1: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The sizes, ascending, and the largest F1 at or below each; both of shape [n], as are the arguments."""
    order = np.lexsort((-f1, sizes))
    return sizes[order], np.maximum.accumulate(f1[order])


def _scatter(axes: Axes, models: pd.DataFrame, norm: LogNorm | None, marker: str, area: float) -> None:
    style: dict[str, Any] = {"marker": marker, "s": area, "edgecolors": "black", "linewidths": 0.7, "zorder": 3}
    measured = models["speedup_factor"].notna()
    for chosen in (models[measured], models[~measured]):
        colours: dict[str, Any] = {"color": _UNMEASURED}
        if chosen["speedup_factor"].notna().any():
            colours = {"c": chosen["speedup_factor"], "cmap": _COLOURS, "norm": norm}
        if not chosen.empty:
            axes.scatter(chosen["model_size_mb"], chosen["f1_macro"], **colours, **style)


def _annotate(figure: Figure, axes: Axes, models: pd.DataFrame) -> None:
    """Name teacher and floor, each where its text covers the fewest points and other texts, inside the axes."""
    from matplotlib.patheffects import withStroke

    figure.canvas.draw()  # fixes the layout, so that positions in pixels hold
    halo = [withStroke(linewidth=4, foreground="white")]  # keeps a name readable on a front's line
    points = axes.transData.transform(models[["model_size_mb", "f1_macro"]].to_numpy(dtype=np.float64))
    taken: list[Any] = []
    for stage, (name, _, _) in _REFERENCES.items():
        for _, row in models[models["stage"] == stage].iterrows():
            place = (float(row["model_size_mb"]), float(row["f1_macro"]))
            choices: list[Any] = []
            for x, y in ((-14, 0), (14, 0), (0, 15), (0, -15), (-12, 12), (12, 12), (-12, -12), (12, -12)):
                align = {-1: "right", 0: "center", 1: "left"}[int(np.sign(x))]
                level = {-1: "top", 0: "center", 1: "bottom"}[int(np.sign(y))]
                style: dict[str, Any] = {"textcoords": "offset points", "ha": align, "va": level, "zorder": 4}
                style["path_effects"] = halo
                text = axes.annotate(name, place, xytext=(x, y), fontweight="bold", fontsize=9, **style)
                box = text.get_window_extent().padded(4)
                inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
                inside = inside and axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
                cost = 1000 * (not inside) + 100 * box.count_overlaps(taken) + box.count_contains(points)
                choices.append((cost, len(choices), text, box))
            choices.sort(key=lambda choice: choice[:2])
            taken.append(choices[0][3])
            for _, _, text, _ in choices[1:]:
                text.remove()


def _printable(text: str) -> str:
    """`text` without mathematics, characters that the font lacks spelt as code points."""
    return spell_out(text, lambda character: ord(character) in _glyphs()).replace("$", r"\$")


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap()) - frozenset(range(0x20))
