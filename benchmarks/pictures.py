"""The README's pictures of a study: its Pareto plot, and its report page as a browser shows it.

    python benchmarks/pictures.py results/STUDY docs

Writes `STUDY_front.png` and `STUDY_report.png`: the top of the page, 1600 pixels wide. Needs the development packages
and a Chromium that is on the path.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

VIEWS = {"report": (1600, 1500, "light")}
"""Width and height in pixels, and theme."""
DRAWN_MS = 3000


def main() -> None:
    """Write the pictures and say where they are."""
    arguments = parsed()
    arguments.to.mkdir(parents=True, exist_ok=True)
    name = arguments.study.resolve().name
    front = arguments.to / f"{name}_front.png"
    shutil.copyfile(arguments.study / "front.png", front)
    print(front)
    page_address = (arguments.study / "report.html").resolve().as_uri()
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for view, (width, height, theme) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(page_address)
            page.wait_for_timeout(DRAWN_MS)
            picture = arguments.to / f"{name}_{view}.png"
            page.screenshot(path=picture)
            print(picture)
        browser.close()


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="results folder of a study that has ended")
    parser.add_argument("to", type=Path, help="folder for the pictures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
