"""The steps of cluster/Dockerfile: read for the tests, and carried out in a clean root where there is no Docker.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm /tmp/root
    python tests/cluster/dockerfile_steps.py /tmp/root [--build-arg NAME=VALUE] [--bind FOLDER] [--copy FILE] \
        [--check COMMAND]...

In place of the base image stands what `debootstrap` made: the same release of Debian with its own Python. COPY takes
what `.dockerignore` lets through, RUN has Docker's shell and nothing of this environment but what pip needs to reach an
index; each check is run as the image's user, in its working directory. `--bind` and `--copy` bring in what pip's
configuration names. Needs root; /proc and /dev are mounted in a namespace that ends with the command.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = "cluster/Dockerfile"
NETWORK = re.compile(r"PIP_.*|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|https?_proxy|no_proxy", re.IGNORECASE)
"""Variables of this environment that RUN is given too, as Docker gives it proxies."""

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Step:
    """One instruction, such as `RUN` and the text after it, continued lines joined."""

    word: str
    text: str


def steps(dockerfile: str) -> list[Step]:
    """The instructions of a Dockerfile, in order."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Step(*line.split(None, 1)) for line in joined.splitlines()]


def context_files(root: Path) -> list[Path]:
    """Files below `root` that the build sees, by Docker's own reading of `.dockerignore`; relative paths."""
    from docker.utils.build import exclude_paths

    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line.strip() and not line.startswith("#")]
    seen = (Path(path) for path in exclude_paths(str(root), patterns, DOCKERFILE))
    return sorted(path for path in seen if (root / path).is_file())


def assignments(text: str) -> dict[str, str]:
    """`NAME=VALUE NAME="VALUE"` of an ENV or ARG; a name without a value has an empty one."""
    pairs = (word.partition("=") for word in shlex.split(text))
    return {name: value for name, _, value in pairs}


@dataclass
class Build:
    """A build that goes on in a root folder."""

    root: Path
    arguments: dict[str, str]
    """Values of ARG, where they are not the defaults."""
    binds: list[str]
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH, "HOME": "/root"})
    folder: str = "/"
    user: str = "0:0"

    def do(self, step: Step) -> None:
        """Carry out one step.

        Raises:
            ValueError: an instruction that is not known here.
            CalledProcessError: a command failed.
        """
        known = string.Template(step.text).safe_substitute(self.environment)
        if step.word == "RUN":  # the shell substitutes, not the build
            self.run(
                ["/bin/sh", "-c", step.text], {name: os.environ[name] for name in filter(NETWORK.match, os.environ)}
            )
        elif step.word == "ENV":
            self.environment |= assignments(known)
        elif step.word == "ARG":
            self.environment |= {name: self.arguments.get(name, value) for name, value in assignments(known).items()}
        elif step.word == "COPY":
            self.copy(known)
        elif step.word == "WORKDIR":
            self.folder = os.path.join(self.folder, known)
            (self.root / self.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.word == "USER":
            self.user = known
        elif step.word not in ("FROM", "CMD"):
            raise ValueError(f"{step.word}: not known here; add it to {Path(__file__).name}")

    def copy(self, text: str) -> None:
        """COPY of files or of one folder, from the context alone."""
        *sources, target = shlex.split(text)
        place = self.root / os.path.join(self.folder, target).lstrip("/")
        for source in sources:
            files = [path for path in context_files(ROOT) if path == Path(source) or Path(source) in path.parents]
            if not files:
                raise ValueError(f"COPY {source}: the build does not see it")
            for file in files:
                inside = place / file.relative_to(source) if file != Path(source) else place / file.name
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, inside)

    def run(self, command: list[str], extra: dict[str, str]) -> None:
        """A command inside the root, as the current user."""
        mounts = ["/dev", "/sys", *self.binds]
        for folder in (*mounts, "/proc"):
            (self.root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        script = [f"mount --rbind {folder} {self.root}{folder}" for folder in mounts]
        inner = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), "/bin/sh", "-c", inner]
        script += [f"mount -t proc proc {self.root}/proc", f"exec {shlex.join(chroot)}"]
        isolated = ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", "\n".join(script)]
        subprocess.run(isolated, env=self.environment | extra, check=True)


def main() -> int:
    """Carry out every step, then the checks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path, help="folder that debootstrap has filled; it is changed")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], metavar="FOLDER", help="seen inside under the same name")
    parser.add_argument("--copy", action="append", default=[], type=Path, metavar="FILE", help="copied in, same name")
    parser.add_argument("--check", action="append", default=[], metavar="COMMAND", help="run at the end, as the user")
    options = parser.parse_args()
    for file in (Path("/etc/resolv.conf"), *options.copy):
        (options.root / str(file.parent).lstrip("/")).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, options.root / str(file).lstrip("/"))
    build = Build(options.root.resolve(), dict(pair.split("=", 1) for pair in options.build_arg), options.bind)
    for step in steps((ROOT / DOCKERFILE).read_text(encoding="utf-8")):
        print(f"--- {step.word} {step.text[:100]}", flush=True)
        build.do(step)
    build.environment |= {"HOME": "/home/pareto"}  # as a container engine sets it for the user
    for check in options.check:
        print(f"--- check as {build.user}: {check}", flush=True)
        build.run(["/bin/sh", "-c", check], {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
