"""The faults: how each is put on a running study, at a random moment of its search."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from .evidence import Evidence
from .processes import lock_holder
from .runs import Reference, Run, Unfinished
from .storage import full, small_disk

LOOK_SECONDS = 0.002
LONG_SECONDS = 1.0
"""A stage that takes at least so long is hit in its midst, a shorter one as soon as it is seen."""
STORE_DEAD_SECONDS = 60.0
DISK_FULL_SECONDS = 20.0
REPLACED_AFTER_SECONDS = (0.0, 30.0)
LONG_QUANTIZATION = ("quantize.method=int8_qat", "quantize.epochs=4")
"""The smoke study's own methods quantize in a tenth of a second: nobody can be killed within that."""
SABOTAGE = Path(__file__).with_name("sabotage")
STAGES = ("teacher", "distil", "prune", "quantize")
MEMORY_GB = 1.5
STAGE_MINUTES = 0.3


@dataclass(frozen=True)
class Injected:
    """A fault that was put on."""

    before: Evidence
    """What was finished when it was."""
    told: str
    """What was done, in words."""


Inject = Callable[[Run, Reference, Random], Injected]


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    inject: Inject
    """Returns once the fault is over, or is left to the study to get over."""
    setting: Literal["local", "cluster", "object store"] = "local"
    resume: Literal["never", "if it ended", "always"] = "never"
    """Whether the study is resumed after the fault; where not, it must get over it by itself."""
    overrides: tuple[str, ...] = ()
    """KEY=VALUE that leave the results as they are: limits."""
    study: tuple[str, ...] = ()
    """KEY=VALUE that make another study of it, which needs an undisturbed run of its own."""
    prepare: Callable[[Run, Reference, Random], AbstractContextManager[object]] = lambda *_: nullcontext()
    """Around the whole run, before it starts."""


def random_moment(run: Run, reference: Reference, rng: Random) -> str:
    """Wait until a random share of the artifacts that the undisturbed run built is finished; says when that was."""
    wanted = rng.uniform(0.1, 0.85)  # not all: which models are measured again at the end is up to the timings
    whole = len(reference.evidence.artifacts)
    run.until(lambda: len(run.artifacts()) >= wanted * whole, reference.patience, pause=0.2 if run.server else 0.05)
    time.sleep(rng.uniform(0.0, 0.3))
    return f"with {wanted:.0%} of the artifacts finished"


def worker_killed_in(stage: str) -> Inject:
    """SIGKILL of the process that builds an artifact of this stage, while it does."""

    def inject(run: Run, reference: Reference, rng: Random) -> Injected:
        names = sorted(name for name in reference.stage_seconds if name.startswith(f"{stage}/"))
        if not names:
            raise Unfinished(f"the undisturbed run built nothing in stage {stage}")
        wanted = {rng.choice(names)}
        missed: set[str] = set()
        found: list[Injected] = []

        def hit() -> bool:
            for name in wanted:
                key = name.partition("/")[2]
                if not (run.store / ".building" / key).exists():
                    if (run.store / name).exists():
                        missed.add(name)
                    continue
                seconds = reference.stage_seconds[name]
                time.sleep(rng.uniform(0.0, 0.8) * seconds if seconds >= LONG_SECONDS else 0.0)
                if injected := _kill_builder(run, name):
                    found.append(injected)
                    return True
                missed.add(name)
            if missed >= wanted:  # too late for it: any other one will do
                wanted.update(names)
            return False

        run.until(hit, reference.patience, LOOK_SECONDS)
        return found[0]

    return inject


def _kill_builder(run: Run, name: str) -> Injected | None:
    """Kill whoever builds the artifact, if somebody still does; held up first, so that it cannot end meanwhile."""
    key = name.partition("/")[2]
    pid = lock_holder(run.store / ".locks" / f"{key}.lock")
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGSTOP)  # it holds a lock of this run's own store
        if not (run.store / ".building" / key).exists() or pid not in run.started.members():
            os.kill(pid, signal.SIGCONT)
            return None
        before = run.evidence()
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return Injected(before, f"process {pid} killed while it built {name[:16]}")


def node_lost(run: Run, reference: Reference, rng: Random) -> Injected:
    """SIGKILL of a worker node, raylet and all; another one joins at once or half a minute later."""
    moment = random_moment(run, reference, rng)
    node = rng.choice(run.cluster.workers())
    after = rng.choice(REPLACED_AFTER_SECONDS)
    before = run.evidence()
    run.cluster.kill(node)
    until = time.monotonic() + after
    while run.running and time.monotonic() < until:
        time.sleep(0.2)
    if run.running:
        run.cluster.start_worker()
    return Injected(before, f"{node.name} killed {moment}, replaced after {after:g} s")


def driver_killed(run: Run, reference: Reference, rng: Random) -> Injected:
    """SIGKILL of the driver and of all its processes."""
    moment = random_moment(run, reference, rng)
    before = run.evidence()
    run.started.kill()
    return Injected(before, f"driver killed {moment}")


def cluster_restarted(run: Run, reference: Reference, rng: Random) -> Injected:
    """SIGKILL of every raylet, the head's too; once the driver has seen it the cluster starts anew."""
    moment = random_moment(run, reference, rng)
    before = run.evidence()
    run.cluster.kill_all()
    killed = time.monotonic()
    with suppress(Unfinished):
        run.until(lambda: False, 60.0)
    how = f"the driver ended {time.monotonic() - killed:.0f} s later"
    if run.running:
        run.started.kill()
        how = "the driver had to be killed after 60 s"
    run.cluster.start_all(2)
    return Injected(before, f"cluster killed {moment}; {how}")


def store_dead(how: Literal["silent", "refusing"]) -> Inject:
    """The S3 server does not answer, or refuses connections, for a minute."""

    def inject(run: Run, reference: Reference, rng: Random) -> Injected:
        moment = random_moment(run, reference, rng)
        before = run.evidence()
        with getattr(run.object_store, how)():
            time.sleep(STORE_DEAD_SECONDS)
        return Injected(before, f"store {how} for {STORE_DEAD_SECONDS:g} s {moment}")

    return inject


def disk_full(which: Literal["store", "results"]) -> Kind:
    """The disk of the store, or that of the results, has no free block for a while."""

    def prepare(run: Run, reference: Reference, rng: Random) -> AbstractContextManager[object]:
        return small_disk(getattr(run, which))

    def inject(run: Run, reference: Reference, rng: Random) -> Injected:
        moment = random_moment(run, reference, rng)
        before = run.evidence()
        with full(getattr(run, which)):
            time.sleep(DISK_FULL_SECONDS)
        return Injected(before, f"disk of the {which} full for {DISK_FULL_SECONDS:g} s {moment}")

    return Kind(f"full disk: {which}", inject, resume="if it ended", prepare=prepare)


def sabotaged(deed: Literal["hang", "allocate"]) -> tuple[Callable[..., AbstractContextManager[object]], Inject]:
    """A stage that hangs, the teacher's too, or a trial that allocates without end; once."""
    stages = STAGES if deed == "hang" else STAGES[1:]

    def order(run: Run) -> Path:
        return run.folder / "order"

    def prepare(run: Run, reference: Reference, rng: Random) -> AbstractContextManager[object]:
        stage = rng.choice(stages)
        key = rng.choice(sorted(name for name in reference.evidence.artifacts if name.startswith(f"{stage}/")))
        order(run).write_text(f"{deed} {key.partition('/')[2]} {4 * MEMORY_GB}", encoding="utf-8")
        path = os.pathsep.join(filter(None, [str(SABOTAGE), os.environ.get("PYTHONPATH")]))
        run.environment |= {"PARETO_SABOTAGE": str(order(run)), "PYTHONPATH": path}
        return nullcontext()

    def inject(run: Run, reference: Reference, rng: Random) -> Injected:
        key = order(run).read_text("utf-8").split()[1]
        [name] = [name for name in reference.evidence.artifacts if name.endswith(key)]
        run.until(lambda: not order(run).exists(), reference.patience, LOOK_SECONDS)
        return Injected(run.evidence(), f"{deed} while {name[:16]} was built")

    return prepare, inject


def limits_broken(run: Run) -> list[str]:
    """In words: limits that a run should have kept."""
    unlimited = (run.folder / "order.unlimited").exists()
    return [f"a trial allocated {4 * MEMORY_GB:g} GB, its limit was {MEMORY_GB:g}"] * unlimited


def kinds() -> Mapping[str, Kind]:
    """All of them, but for the flipped byte, by name."""
    made = [Kind(f"worker killed in {stage}", worker_killed_in(stage)) for stage in STAGES[:-1]]
    made += [
        Kind("worker killed in quantize", worker_killed_in("quantize"), study=LONG_QUANTIZATION),
        Kind("worker node lost", node_lost, "cluster"),
        Kind("driver killed", driver_killed, resume="always"),
        Kind("cluster restarted", cluster_restarted, "cluster", resume="always"),
        Kind("store silent", store_dead("silent"), "object store"),
        Kind("store refusing", store_dead("refusing"), "object store"),
        disk_full("store"),
        disk_full("results"),
    ]
    for name, deed, limit in (
        ("endless allocation", "allocate", f"resources.memory_gb_per_trial={MEMORY_GB}"),
        ("hang", "hang", f"resources.stage_minutes={STAGE_MINUTES}"),
    ):
        prepare, inject = sabotaged(deed)  # type: ignore[arg-type]
        made.append(Kind(name, inject, overrides=(limit,), prepare=prepare))
    return {kind.name: kind for kind in made}
