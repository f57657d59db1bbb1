import html.parser
import json

import numpy as np
import pandas as pd
import pytest

from evaluation.page.markup import duration, isolated, json_in_html, number, signed, size, speed_up, table, verdict

HOSTILE = ["</script><script>", "<!--", "a&b", "\u2028\u2029", "বাংলা", "'\"`", "{{x}}"]


def test_json_cannot_leave_its_script_and_reads_back() -> None:
    value = {name: [name, 1.5, None] for name in HOSTILE}
    text = json_in_html(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value
    with pytest.raises(ValueError):
        json_in_html([float("nan")])


def test_a_table_reads_back_as_its_cells() -> None:
    class Cells(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.cells: list[str] = []
            self.models: list[str | None] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in {"p", "div", "table", "thead", "tbody", "tr", "th", "td"}
            self.models += [value for name, value in attrs if name == "data-model"]
            self.cells += [""] * (tag in {"th", "td"})

        def handle_data(self, data: str) -> None:
            if self.cells:
                self.cells[-1] += data.removesuffix("\n")

    reader = Cells()
    rows = [(name, None) for name in HOSTILE]
    reader.feed(table(("Label", "Count"), rows, caption=HOSTILE[0], numeric={"Count"}, models=[3, *[None] * 6]))
    assert reader.cells == ["Label", "Count", *(cell for name in HOSTILE for cell in (name, "–"))]
    assert reader.models == ["3"]
    assert isolated("<b>") == "<bdi>&lt;b&gt;</bdi>"


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.12345, "0.123", "+0.123"),
        (-0.5, "\u22120.500", "\u22120.500"),
        (-0.0001, "0.000", "0.000"),
        (1234.5, "1,234.500", "+1,234.500"),
        (None, "–", "–"),
        (float("inf"), "–", "–"),
        (np.float64("nan"), "–", "–"),
        (pd.NA, "–", "–"),
    ],
)
def test_numbers_in_words(value: object, plain: str, with_sign: str) -> None:
    assert (number(value), signed(value)) == (plain, with_sign)


def test_sizes_durations_and_verdicts() -> None:
    assert [size(value) for value in (12.345, 0.0123, 0.0, None)] == ["12.35", "0.0123", "0.00", "–"]
    assert [duration(value) for value in (0.04, 59.4, 59.6, 3599.6, 7384)] == [
        "0.0 s",
        "59.4 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 03 min",
    ]
    assert speed_up({"speedup_factor": 2.0, "speedup_low": 1.9, "speedup_high": pd.NA}) == "2.00\u00d7"
    assert speed_up({"speedup_factor": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}) == "2.00\u00d7 [1.90, 2.10]"
    assert (speed_up({}), verdict(None), verdict("safe")) == ("–", "▽\u00a0not checked", "●\u00a0safe")
