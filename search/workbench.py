"""What every trial of a study works with on its node: config, store, data, teacher and floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from evaluation.evaluator import CompressionEvaluator
from evaluation.measuring import LatencyConfig
from evaluation.safety import SafetyLimits
from pipeline.artifact import Artifact
from pipeline.cache import Store
from pipeline.stages import train_born_again, train_classical, train_teacher
from pipeline.storage import open_store
from search.config import StudyConfig
from search.shared_models import fetching


@dataclass(frozen=True)
class Workbench:
    """What every trial of a study works with on its node."""

    config: StudyConfig
    store: Store
    data: Artifact
    teacher_threads: int | None = None
    """Threads that the study's teacher was trained with. Sums depend on them: a teacher that has to be built again,
    as it was damaged, shall be the same to the bit. None leaves them as they are."""
    waits: bool = True
    """For a speed that another trial measures; without, the rows of the trial may lack it, see `search.timings`."""

    @classmethod
    def open(cls, config: StudyConfig, data_key: str, kind: Callable[..., Store] = Store) -> Workbench:
        """Find the study's data in its store, which is of this kind.

        Raises:
            FileNotFoundError: this node does not see the store that the study was prepared in.
        """
        store = open_store(config.store_place, kind)
        data = store.find("data", data_key)
        if data is None:
            raise FileNotFoundError(
                f"{store.root}: no data {data_key[:12]}; does this node see the folder of `storage`?"
            )
        return cls(config, store, data)

    def evaluator(self, teacher: Artifact) -> CompressionEvaluator:
        """The study's rules of measuring, against this teacher."""
        return CompressionEvaluator(
            store=self.store,
            data=self.data,
            teacher=teacher,
            limits=safety_limits(self.config),
            priorities=self.config.priorities or None,
            tradeoff_weights=self.config.tradeoff_weights,
            latency=LatencyConfig(**self.config.measure.model_dump()),
            bootstrap_rounds=self.config.safety.rounds,
            hold_critical_recall=self.config.safety.hold_critical_recall,
        )

    def teacher(self) -> Artifact:
        """The study's teacher, of its last generation, trained once."""
        return self.teachers()[-1]

    def teachers(self) -> list[Artifact]:
        """The teacher as it is fine-tuned, then each born-again generation."""
        config = self.config.teacher
        with computing_with(self.teacher_threads):
            found = [self.store.run(fetching(self.store, train_teacher), config, self.data)]
            for _ in range(config.generations):
                found.append(self.store.run(train_born_again, config, self.data, found[-1]))
        return found

    def classical(self) -> Artifact:
        """The classical floor, fitted once."""
        return self.store.run(train_classical, self.config.classical, self.data)


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """PyTorch computes with so many threads in the block, and as before after it; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def safety_limits(config: StudyConfig) -> SafetyLimits:
    """The study's limits on what may be lost against the teacher."""
    safety = config.safety
    return SafetyLimits(
        critical_label=config.critical_label,
        max_f1_drop=safety.max_f1_drop,
        max_critical_f1_drop=safety.max_critical_f1_drop,
        max_critical_recall_drop=safety.max_critical_recall_drop,
        confidence=safety.confidence,
    )
