"""The house: names that shadow nothing, imports that go one way, no traces of the place where it was written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "evaluation", "cluster", "search")
OURS = "pareto-compression"
OUTPUT = re.compile(r"\.git|\.venv|\.hypothesis|results|build|__pycache__|.*_cache|.*\.egg-info")


def modules() -> list[Path]:
    """Every module and package below the four, and the four themselves."""
    found = [path for package in PACKAGES for path in (ROOT / package, *(ROOT / package).rglob("*.py"))]
    return [path for path in found if path.name != "__init__.py"]


def installed() -> set[str]:
    """Top-level names that distributions other than ours have installed."""
    return {name for name, owners in packages_distributions().items() if set(owners) != {OURS}}


def files(folder: Path = ROOT) -> Iterator[Path]:
    """The project's own files: no output, and nothing that tools keep."""
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif not OUTPUT.fullmatch(path.name):
            yield from files(path)


def test_the_oracles_know_something() -> None:
    assert {"torch", "ray", "optuna", "yaml", "sklearn"} <= installed()
    assert {path.stem for path in modules()} >= {*PACKAGES, "space", "cache", "latency", "session"}
    assert len(list(files())) > 50


def test_no_package_is_named_as_the_standard_library_or_a_dependency() -> None:
    assert not set(PACKAGES) & sys.stdlib_module_names
    assert not set(PACKAGES) & installed()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_named_as_the_standard_library_or_a_dependency(package: str) -> None:
    """A file that is run puts its folder on the path: there `queue.py` would stand for the standard library's."""
    names = {path.stem for path in modules() if package in path.parts and path.name != package}
    assert names and not names & (sys.stdlib_module_names | installed())


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [3-9]\d* kept, 0 broken", done.stdout)


def test_tests_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_package_has_one() -> None:
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)


def test_no_file_names_the_place_where_it_was_written() -> None:
    """The absolute path of this checkout stands in none of its files."""
    place = f"{ROOT}/".encode()
    assert [str(file) for file in files() if place in file.read_bytes()] == []
