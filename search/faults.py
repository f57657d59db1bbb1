"""Faults of trials and of the driver's own tasks: which may pass, and what is said of them.

Tune runs a trial again (`attempts.py`) whose worker or node is lost, or which raises. So a worker raises only what may
pass; an error that would come again is reported, and the trial returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cluster.session import ClusterError
from pipeline.errors import InputError
from pipeline.remote import RemoteRefused
from search.sections import ResourcesConfig

PAUSES_SECONDS = (5.0, 20.0, 60.0)
"""Before the second attempt of a trial that raised, the third, and each later one."""
LASTING = (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""Errors of the operating system that come again."""
_OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot|could not|unable to|failed to) allocate|bad_?alloc|bad allocation", re.IGNORECASE
)
_PASSING_TEXT = re.compile(r"no space left on device|quota exceeded|CUDA error", re.IGNORECASE)
"""Of libraries that raise a RuntimeError for everything. After an error of CUDA only a new process can go on."""
_KILLED_FOR_MEMORY = re.compile(r"low on memory|memory monitor|exceed\w* the (usage )?threshold", re.IGNORECASE)
"""How Ray's memory monitor speaks; of a worker that died otherwise Ray only supposes that memory was the cause."""
_NODE_LOST = re.compile(r"node.{0,80}(died|dead|terminated|preempted|drain|unavailable)", re.IGNORECASE | re.DOTALL)


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: the disk was full, memory short, or the store did not answer."""
    causes = list(_causes(error))
    return not any(isinstance(cause, InputError) for cause in causes) and any(
        is_out_of_memory(cause)
        or (isinstance(cause, OSError) and not isinstance(cause, LASTING))
        or _PASSING_TEXT.search(str(cause)) is not None
        for cause in causes
    )


def is_refused(error: BaseException) -> bool:
    """Whether the object store refuses, as with expired credentials: a later run may succeed, this one will not."""
    return any(isinstance(cause, RemoteRefused) for cause in _causes(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had; PyTorch and ONNX Runtime say so with errors of other kinds."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def pause_seconds(attempt: int, retries: int) -> float:
    """How long to wait after the `attempt`-th attempt, counted from 1, before the next one; 0 where none follows."""
    return PAUSES_SECONDS[min(attempt, len(PAUSES_SECONDS)) - 1] if attempt <= retries else 0.0


def error_text(error: BaseException, resources: ResourcesConfig) -> str:
    """An error on a line, with the setting that has to do with it."""
    told = f"{type(error).__name__}: {error}".rstrip(" :")
    if not any(is_out_of_memory(cause) for cause in _causes(error)):
        return told
    limit = resources.memory_gb_per_trial
    if limit is None:
        return f"{told}; the machine's memory is used up: lower resources.max_concurrent, or what the trial needs"
    return f"{told}; resources.memory_gb_per_trial={limit:g} is all that a trial has: raise it"


def death_text(stage: str, seconds: float, reason: str, resources: ResourcesConfig) -> str:
    """Why a trial ended that could not say so itself.

    Args:
        stage: at work when its worker died.
        seconds: since it last said something.
        reason: what Ray says; empty when that is not known.
        resources: the study's.
    """
    limit = resources.stage_minutes
    if limit is not None and seconds >= 60.0 * limit and not _NODE_LOST.search(reason):
        return (
            f"{stage} took longer than resources.stage_minutes={limit:g}; raise it, "
            "or make the stage smaller (fewer epochs, a smaller model)"
        )
    if _KILLED_FOR_MEMORY.search(reason):
        return (
            f"Ray ended the trial's worker at {stage}, as its node ran out of memory: lower resources.max_concurrent, "
            "or set resources.memory_gb_per_trial; its stages so far are kept"
        )
    if _NODE_LOST.search(reason):
        return f"the trial's node was lost at {stage}; its stages so far are kept"
    return f"the trial's worker died without a word at {stage} (killed, or out of memory); its stages so far are kept"


def run_task(
    what: str, function: Callable[..., Any], arguments: Sequence[Any], resources: ResourcesConfig, **needed: Any
) -> Any:
    """What a function returns that runs as a Ray task, again when its worker or node dies, or an error may pass.

    Args:
        what: it does, for the error.
        function: to run.
        arguments: its arguments.
        resources: the study's; `retries` says how often it is run again.
        needed: options of the task, as `num_cpus`.

    Raises:
        ClusterError: its worker died each time.
        Exception: what the function raised, from the RayTaskError whose text is its whole trace.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    retries = resources.retries
    again = {"max_retries": retries, "retry_exceptions": [OSError, MemoryError]}
    try:
        return ray.get(ray.remote(function).options(**again, **needed).remote(*arguments))
    except RayTaskError as error:
        raise error.cause from error
    except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
        limit = resources.stage_minutes
        late = f", or a stage took longer than resources.stage_minutes={limit:g}" if limit is not None else ""
        raise ClusterError(
            f"{what}: its worker died {retries + 1} times (killed, out of memory{late}; "
            f"Ray says: {str(error).strip().rstrip('.')})"
        ) from error
