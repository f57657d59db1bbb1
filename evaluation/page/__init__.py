"""`report.html`: the whole study on one page that opens offline, from its Parquet files alone.

Nothing on the page is loaded from anywhere: plotly.js is written into it, and the Content-Security-Policy runs no
script but the page's own, known by its SHA-256. Tables are written here and need no JavaScript; the plots and the
comparison with the teacher are drawn in the browser from a block of JSON.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from evaluation.page.history import study_history
from evaluation.page.markup import escape_html, json_in_html
from evaluation.page.models import choose_models, page_data
from evaluation.page.sections import page_sections
from evaluation.page.summary import recommended
from evaluation.study_files import Study
from pipeline.whole_file import replaced

__all__ = ["write_page"]

_HERE = Path(__file__).parent
_SCRIPTS = ("charts.js", "pareto.js", "settings.js", "panel.js", "page.js")


def write_page(study: Study, path: Path) -> Path:
    """Write the page of `study` to `path`, at once or not at all; returns `path`.

    Links lead to the study's other files in the same folder, as far as they exist by now: call it last.

    Args:
        study: from `study_files.read_study`.
        path: usually `report.html` in the study's folder.
    """
    models = choose_models(study)
    history = study_history(study.trials, study.trials_ended)
    blocks = page_sections(study, models, history, path)
    data = page_data(study, models, history)
    data["start"] = next(iter(recommended(models).values()), None)
    text = _assemble(study.name, blocks, json_in_html(data))
    with replaced(path) as temporary:
        # A lone surrogate cannot be written as UTF-8; its escape is valid JSON, and text elsewhere.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def _assemble(title: str, blocks: dict[str, str], data: str) -> str:
    """The template with its `{{names}}` replaced, each once: what is put in is not looked through again."""
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs()
    own = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{own}\n}})();'
    filled = {
        **blocks,
        "title": escape_html(title),
        "policy": _policy(plotly, script),
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "data": data,
        "plotly": plotly,
        "script": script,
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], template)


def _policy(*scripts: str) -> str:
    """Only these scripts run, nothing is fetched or sent; plotly sets styles and makes pictures as blobs."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
