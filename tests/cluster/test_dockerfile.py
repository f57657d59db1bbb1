"""The image's recipe as Docker would read it. Its steps are carried out by `dockerfile_steps.py`, not in CI."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.dockerfile_steps import Build, Step, assignments, context_files, steps

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "evaluation", "pipeline", "search")


def test_a_dockerfile_is_read_as_docker_does() -> None:
    text = '# syntax\nFROM a:1\n\n  # why\nRUN one \\\n    # between\n    && two\nENV A=1 \\\n    B="2 3"\n'
    assert steps(text) == [Step("FROM", "a:1"), Step("RUN", "one  && two"), Step("ENV", 'A=1  B="2 3"')]
    assert assignments(steps(text)[2].text) == {"A": "1", "B": "2 3"}


def test_a_build_argument_and_a_variable_reach_the_steps_after_them(tmp_path: Path) -> None:
    build = Build(tmp_path, {"PLACE": "mine"}, [])
    for step in steps("ARG PLACE=theirs\nENV TOP=/top\nWORKDIR $TOP/$PLACE\nCOPY pyproject.toml search ./\nUSER 7:8\n"):
        build.do(step)
    assert (build.folder, build.user) == ("/top/mine", "7:8")
    assert (tmp_path / "top/mine/pyproject.toml").is_file() and (tmp_path / "top/mine/pareto.py").is_file()
    for wrong in ("COPY results ./", "COPY .git ./", "HEALTHCHECK NONE"):
        with pytest.raises(ValueError):
            build.do(steps(wrong)[0])


def image() -> list[Step]:
    return steps((ROOT / "cluster/Dockerfile").read_text(encoding="utf-8"))


def test_the_image_is_pinned_and_its_user_is_not_root() -> None:
    words = [step.word for step in image()]
    assert words.count("FROM") == 1 and words[0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", image()[0].text)
    assert not {"ADD", "EXPOSE", "VOLUME", "ENTRYPOINT", "ONBUILD"} & set(words)
    assert words[-2:] == ["USER", "CMD"] and words.count("USER") == 1
    user = image()[-2].text
    assert re.fullmatch(r"\d+:\d+", user) and int(user.split(":")[0]) > 0
    for manifest in (ROOT / "cluster").glob("kuberay_*.yaml"):
        users = re.findall(r"runAs(User|Group): (\d+)", manifest.read_text(encoding="utf-8"))
        assert dict(users) == dict(zip(("User", "Group"), user.split(":"), strict=True))


def test_the_image_installs_what_the_tests_ran_with_and_starts_ray_with_a_token() -> None:
    installs = [step.text for step in image() if "pip install" in step.text]
    assert len(installs) == 1 and "--constraint constraints.txt" in installs[0] and "pyproject.toml" in installs[0]
    environment = " ".join(step.text for step in image() if step.word == "ENV")
    assert "RAY_AUTH_MODE=token" in environment.split()
    assert not re.search(r"key|secret|password|credential|auth_token", environment, re.IGNORECASE)


def test_the_build_sees_the_program_and_nothing_else() -> None:
    seen = {str(path) for path in context_files(ROOT)}
    tops = {path.split("/")[0] for path in seen}
    assert tops <= {".dockerignore", "LICENSE", "constraints.txt", "pyproject.toml", *PACKAGES}
    for needed in ("search/pareto.py", "search/studies/smoke.yaml", "evaluation/page/page.html", "cluster/session.py"):
        assert needed in seen
    copied = [step.text.split()[:-1] for step in image() if step.word == "COPY"]
    assert {source for sources in copied for source in sources} == tops - {".dockerignore"}


def test_no_hidden_or_foreign_file_gets_into_the_build(tmp_path: Path) -> None:
    """Files are laid where secrets and results would be."""
    (tmp_path / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    laid = ["pyproject.toml", "search/pareto.py", ".env", "search/.env", ".git/config", "results/s/study.db", "token"]
    for name in [*laid, "search/__pycache__/pareto.pyc", "data/comments.csv", "cluster/token", ".venv/bin/python"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {str(path) for path in context_files(tmp_path)} == {".dockerignore", "pyproject.toml", "search/pareto.py"}
