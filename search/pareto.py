"""Command line: search the Pareto front of a study."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == ROOT / "search":
    sys.path[0] = str(ROOT)  # run as a file: its own folder must not stand for top-level modules

from pipeline.errors import InputError  # noqa: E402

if TYPE_CHECKING:
    from pipeline.data import Data
    from search.config import StudyConfig

DONE, NO_SAFE_MODEL, BAD_INPUT, BROKEN_OFF, INTERRUPTED = 0, 1, 2, 70, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 done, 1 no safe model, 2 bad input, 70 broken off by an error of ours or of the machine, 130 interrupted by
    Ctrl-C or SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["init"]:
        from search.init_study import main as init

        return init(arguments[1:])
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except InputError as error:
        return refuse(error.problems)
    except KeyboardInterrupt:
        return interrupted("interrupted; what was finished is kept, --resume goes on")
    except Exception as error:  # Python would end with 1, which means that no model is safe
        import traceback

        traceback.print_exc()
        return broken_off(f" ({type(error).__name__})")


def run(options: argparse.Namespace) -> int:
    """Check and run the study, show what came out, and return the exit status."""
    from rich.console import Console

    from cluster.growing import with_fitting_node
    from cluster.session import ClusterError, check_fit, default_address, session
    from pipeline.remote import RemoteError, RemoteUnreachable
    from search.alone import alone
    from search.results_mirror import ResultsNotKept, place
    from search.start import checked

    console = Console(highlight=False, stderr=options.json, quiet=options.quiet)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    try:
        config, data = checked(options.study, options.set, options.resume, say)
        address, shared = options.address or default_address(), None if config.storage_is_remote else config.store_root
        # Ray itself tells on standard output of workers that died.
        with redirect_stdout(sys.stderr if options.json else sys.stdout), session(address, shared) as up:
            signal.signal(signal.SIGTERM, as_by_ctrl_c)  # Ray, now that it is up, would abort the process
            sys.unraisablehook = interrupted_again
            needed = config.resources
            trial = needed.cpus_per_trial, needed.gpus_per_trial, needed.memory_gb_per_trial
            cpus = check_fit(with_fitting_node(up, needed.node_minutes, say, *trial), *trial)
            with alone(config, say):
                running = begin(config, data, options.resume, say)
                from search.study import StudyRun
                from search.summary import as_json, show

                say(f"Ray dashboard: {up.dashboard_url}" if up.dashboard_url else "Ray has no dashboard")
                try:
                    outcome = StudyRun(running, data, cpus, console).run()
                except (ClusterError, InputError, RemoteError) as error:
                    return broken_off(f": {error}")
    except (ClusterError, RemoteUnreachable) as error:
        return refuse([str(error)])
    except ResultsNotKept as error:
        return interrupted(f"{error}; --resume goes on")
    if options.json:
        print(as_json(outcome, config))
    else:
        show(outcome, config, Console(highlight=False))
        if config.storage_is_remote:
            print(f"all of it, to stay: {place(config)}")
    if not outcome.finished:
        return interrupted("interrupted; --resume goes on")
    return NO_SAFE_MODEL if outcome.recommended.empty else DONE


def begin(config: StudyConfig, data: Data, resume: bool, say: Callable[[str], None]) -> StudyConfig:
    """Claim the study's folder, and its place in the storage, by who has its name; the study as it is to run."""
    from cluster.session import passing_folder
    from search.results_mirror import set_aside
    from search.start import claim_folder, data_summary, in_passing_folder, taken_up, with_absolute_paths

    config = taken_up(config, say) if resume else config
    moved = claim_folder(config, resume)
    copy_moved = set_aside(config, moved.name if moved else None) if config.storage_is_remote and not resume else None
    for kept in filter(None, (moved, copy_moved)):
        say(f"the earlier study of this name is kept in {kept}")
    say(f"study {config.study}: {data_summary(data)}")
    running = in_passing_folder(with_absolute_paths(config), passing_folder())
    if running.tracking != config.tracking:
        say("MLflow: off, its file would vanish with the job; name a server with --set tracking.uri=https://HOST")
    return running


def as_by_ctrl_c(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C would do now, also where it is ignored, as in the background of a shell script."""
    by_ctrl_c = signal.getsignal(signal.SIGINT)
    (by_ctrl_c if callable(by_ctrl_c) else signal.default_int_handler)(signal.SIGINT, frame)


def interrupted_again(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that falls into a callback of Python's own is lost there: it comes once more, a little later."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.1, signal.raise_signal, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(unraisable)


def interrupted(why: str) -> int:
    """Say it, with --quiet too; the status of a study that is to be resumed."""
    print(why, file=sys.stderr)
    return INTERRUPTED


def broken_off(why: str) -> int:
    """Say it, with --quiet too; the status of a study that an error of ours or of the machine has ended."""
    print(f"error: the study broke off{why}; --resume goes on", file=sys.stderr)
    return BROKEN_OFF


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
        "Exit status: 0 done; 1 the search ended with no safe model; 2 bad input or config; 70 broken off by an error; "
        "130 interrupted, by Ctrl-C or SIGTERM. --resume goes on after the last two.",
    )
    made.add_argument(
        "study", nargs="?", type=Path, metavar="STUDY.yaml", help="study file; left out: the embedded sample"
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, such as distil.temperature=4"
    )
    made.add_argument("--resume", action="store_true", help="go on with the study in its results folder")
    made.add_argument(
        "--address",
        help="where the trials run: local, auto (a cluster that this machine is in), or HOST:PORT of its head; "
        "left out: local, and in a job of `ray job submit` the cluster it was submitted to",
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
