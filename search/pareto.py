"""Command line: search the Pareto front of a study."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == ROOT / "search":
    sys.path[0] = str(ROOT)  # run as a file: its own folder must not stand for top-level modules

from pipeline.errors import InputError  # noqa: E402

DONE, NO_SAFE_MODEL, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 no safe model, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["init"]:
        from search.init_study import main as init

        return init(arguments[1:])
    options = parser().parse_args(arguments)
    from search.start import checked

    try:
        config, data = checked(options.study, options.set, options.resume)
    except InputError as error:
        return refuse(error.problems)
    from rich.console import Console

    from cluster.session import ClusterError, check_fit, session
    from search.start import claim_folder, data_summary, with_absolute_paths

    console = Console(highlight=False, stderr=options.json, quiet=options.quiet)
    try:
        with session(options.address, storage_is_local=config.storage is None) as up:
            check_fit(up, config.resources.cpus_per_trial, config.resources.gpus_per_trial)
            if moved := claim_folder(config, options.resume):
                console.print(f"the earlier study of this name is kept in {moved}", markup=False, soft_wrap=True)
            from search.study import StudyRun
            from search.summary import as_json, show

            console.print(f"study {config.study}: {data_summary(data)}", markup=False, soft_wrap=True)
            console.print(f"Ray dashboard: {up.dashboard_url}" if up.dashboard_url else "Ray has no dashboard")
            outcome = StudyRun(with_absolute_paths(config), data, max(1, int(up.cpus)), console).run()
    except ClusterError as error:
        return refuse([str(error)])
    except KeyboardInterrupt:
        console.print("interrupted; what was finished is kept, --resume goes on")
        return INTERRUPTED
    if options.json:
        print(as_json(outcome, config))
    else:
        show(outcome, config, Console(highlight=False))
    if not outcome.finished:
        console.print("interrupted; --resume goes on")
        return INTERRUPTED
    return NO_SAFE_MODEL if outcome.recommended.empty else DONE


def refuse(problems: Sequence[str]) -> int:
    """Print every problem; the status of bad input."""
    print(
        f"error: the study cannot start ({len(problems)} problem{'s' if len(problems) > 1 else ''}):", file=sys.stderr
    )
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return BAD_INPUT


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python search/pareto.py",
        description="Search the Pareto front of accuracy, size and latency of a text classifier: every trial runs the "
        "chain teacher, distil, prune, quantize, and every model is measured and checked for safety.",
        epilog="`init COMMENTS.csv` in place of STUDY.yaml writes a study for your own comments (init --help). "
        "Exit status: 0 done; 1 the search ended with no safe model; 2 bad input or config.",
    )
    made.add_argument(
        "study", nargs="?", type=Path, metavar="STUDY.yaml", help="study file; left out: the embedded sample"
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, such as distil.temperature=4"
    )
    made.add_argument("--resume", action="store_true", help="go on with the study in its results folder")
    made.add_argument(
        "--address", default="local", help="local (default), auto, or ray://HOST:PORT: where the trials run"
    )
    made.add_argument("--quiet", action="store_true", help="say nothing before the end")
    made.add_argument(
        "--json", action="store_true", help="at the end one JSON object on standard output; all else on standard error"
    )
    made.add_argument("--version", action="version", version=f"pareto-compression {version()}")
    return made


def version() -> str:
    """Of the installed distribution, else of the checkout."""
    from importlib import metadata

    try:
        return metadata.version("pareto-compression")
    except metadata.PackageNotFoundError:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"])


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
