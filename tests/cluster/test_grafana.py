"""The Grafana dashboard: it can be imported, asks for nothing that is not exported, and shows all that is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.metrics import METRICS, PREFIX, SUFFIXES, exported_names

FILE = Path(__file__).parents[2] / "cluster" / "grafana.json"
WORDS = {"sum", "max", "by", "or", "histogram_quantile"}
"""Of PromQL."""
COLUMNS = 24
"""Of Grafana's grid."""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return read


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def names_in(text: str) -> set[str]:
    """What is said to be a metric: at the start of a selector, or as its `__name__`."""
    named = {name for one in re.findall(r'__name__=~?"([^"]*)"', text) for name in one.split("|")}
    return named | set(re.findall(r"([A-Za-z_:][\w:]*)\s*\{", text))


def test_it_asks_for_exported_names_alone_and_for_every_metric(dashboard: dict[str, Any]) -> None:
    asked = set().union(*map(names_in, expressions(dashboard)))
    assert asked <= exported_names()
    shown = {name for name in METRICS if asked & {f"{PREFIX}{name}{suffix}" for suffix in SUFFIXES[METRICS[name].kind]}}
    assert shown == set(METRICS)


def test_every_expression_is_of_known_words_and_of_one_study(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        selectors = re.findall(r"\{[^}]*\}", expression)
        assert selectors and all('study="$study"' in selector for selector in selectors)
        bare = re.sub(r'"[^"]*"', "", expression)
        by = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", bare) for label in labels.split(",")}
        used = [metric for name, metric in METRICS.items() if name in expression]
        assert used and all(by <= {*metric.tags, "study", *_bounds(metric.kind)} for metric in used)
        words = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"\{[^}]*\}|by \([^)]*\)", "", bare)))
        assert words <= WORDS | exported_names() | {"by"}
        assert bare.count("(") == bare.count(")") and bare.count("{") == bare.count("}")


def _bounds(kind: str) -> set[str]:
    return {"le"} if kind == "histogram" else set()


def test_legends_name_labels_that_the_expression_keeps(dashboard: dict[str, Any]) -> None:
    for target in (target for panel in dashboard["panels"] for target in panel["targets"]):
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"])


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert cells and not cells & taken and max(x for x, _ in cells) < COLUMNS
        taken |= cells
    for panel in panels:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        assert panel["title"] and panel["description"]


def test_what_is_asked_of_the_user_is_a_data_source_and_a_study(dashboard: dict[str, Any]) -> None:
    source, study = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (study["name"], study["type"]) == ("study", "query")
    label_values = re.fullmatch(r"label_values\((\w+), study\)", study["query"]["query"])
    assert label_values and label_values[1] in exported_names()
    asking = [study, *dashboard["panels"], *(target for panel in dashboard["panels"] for target in panel["targets"])]
    assert all(one["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for one in asking)


def test_it_needs_grafana_10_and_no_plugin(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None, "a number of one Grafana would replace another dashboard there"
    needed = {one["id"]: one["version"] for one in dashboard["__requires"]}
    assert needed["grafana"] == "10.0.0"
    assert {panel["type"] for panel in dashboard["panels"]} <= needed.keys()
