"""The Optuna study of a search: a SQLite database that Optuna and its dashboard open, with a copy in memory.

Optuna's own storage reads an open trial seven times from the database, looks for earlier values before each it writes,
and each of its fifteen commits waits for the disk: 50 ms of computing a trial and often 200 ms of waiting. Only the
driver writes here. So reading needs no database, a setting or attribute is one statement into the tables that Optuna
has made, and a commit goes to SQLite's write-ahead log, which a killed process leaves whole. Optuna keeps times in UTC.
"""

from __future__ import annotations

import copy
import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._rdb.models import TrialValueModel
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, DateTime, TextClause, bindparam, text

_PARAM = text(
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    "VALUES (:trial, :name, :value, :domain)"
)
_USER_ATTRIBUTE, _SYSTEM_ATTRIBUTE, _STUDY_USER_ATTRIBUTE, _STUDY_SYSTEM_ATTRIBUTE = (
    text(
        f"INSERT INTO {owner}_{kind}_attributes ({owner}_id, key, value_json) VALUES (:{owner}, :key, :value) "
        f"ON CONFLICT ({owner}_id, key) DO UPDATE SET value_json = excluded.value_json"
    )
    for owner in ("trial", "study")
    for kind in ("user", "system")
)
_NEW = text(
    "INSERT INTO trials (study_id, number, state, datetime_start) "
    "VALUES (:study, (SELECT COUNT(*) FROM trials WHERE study_id = :study), 'RUNNING', :began)"
).bindparams(bindparam("began", type_=DateTime))
_NUMBER = text("SELECT number FROM trials WHERE trial_id = :trial")
_TAKE = text(
    "UPDATE trials SET state = 'RUNNING', datetime_start = :began WHERE trial_id = :trial AND state = 'WAITING'"
).bindparams(bindparam("began", type_=DateTime))

_VALUE = text(
    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (:trial, :objective, :value, :kind)"
)
_END = text(
    "UPDATE trials SET state = :state, datetime_start = :began, datetime_complete = :ended WHERE trial_id = :trial"
).bindparams(bindparam("began", type_=DateTime), bindparam("ended", type_=DateTime))
_FORGET = text("DELETE FROM trial_user_attributes WHERE trial_id = :trial")
_REOPEN = text("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = :trial")

WAIT_SECONDS = 60.0
"""How long a write waits for another process that has locked the database, such as the dashboard."""


class StudyDatabase(InMemoryStorage):
    """An Optuna storage that reads from memory and writes everything to the file too.

    One process at a time may add trials; others may read. For one thread.
    """

    def __init__(self, file: Path) -> None:
        """Open the file, made if it is not there, and read what it holds."""
        super().__init__()
        self._file = file
        with closing(sqlite3.connect(file, WAIT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file
        arguments = {"timeout": WAIT_SECONDS, "factory": _Connection}
        self._database = RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": arguments})
        self._transaction: Connection | None = None
        self._studies_there: dict[int, int] = {}
        self._trials_there: list[int] = []
        for study in self._database.get_all_studies():
            own = super().create_new_study(study.directions, study.study_name)
            self._studies_there[own] = study._study_id
            for key, value in study.user_attrs.items():
                super().set_study_user_attr(own, key, value)
            for key, value in study.system_attrs.items():
                super().set_study_system_attr(own, key, value)
            for trial in self._database.get_all_trials(study._study_id, deepcopy=False):
                self._trials_there.append(trial._trial_id)
                super().create_new_trial(own, _interned(trial))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What the block writes is one transaction: a process that dies inside it leaves nothing of it in the file."""
        with self._database.engine.connect() as self._transaction:
            try:
                yield
            finally:
                self._transaction.commit()
                self._transaction = None

    def close(self) -> None:
        """Fold the write-ahead log into the file, which then can be copied alone."""
        self._database.remove_session()
        self._database.engine.dispose()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See `BaseStorage`."""
        own = super().create_new_study(directions, study_name)
        name = self.get_study_name_from_id(own)
        self._studies_there[own] = self._database.create_new_study(directions, name)
        return own

    def delete_study(self, study_id: int) -> None:
        """See `BaseStorage`."""
        self._database.delete_study(self._studies_there.pop(study_id))
        super().delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        super().set_study_user_attr(study_id, key, value)
        there = {"study": self._studies_there[study_id], "key": key, "value": json.dumps(value)}
        self._execute(_STUDY_USER_ATTRIBUTE, there)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        super().set_study_system_attr(study_id, key, value)
        there = {"study": self._studies_there[study_id], "key": key, "value": json.dumps(value)}
        self._execute(_STUDY_SYSTEM_ATTRIBUTE, there)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See `BaseStorage`.

        Raises:
            RuntimeError: another process has added trials to the study.
        """
        study = self._studies_there[study_id]
        own = super().create_new_trial(study_id, template_trial)
        trial = super().get_trial(own)
        if template_trial is None:
            with self._writing() as connection:
                there = connection.execute(_NEW, {"study": study, "began": _utc(trial.datetime_start)}).lastrowid
        else:
            there = self._database.create_new_trial(study, template_trial)
        self._trials_there.append(there)
        with self._writing() as connection:
            number = connection.execute(_NUMBER, {"trial": there}).scalar()
        if number != trial.number:
            raise RuntimeError(f"{self._file}: another process adds trials too; end one of them, and --resume")
        return own

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See `BaseStorage`."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        values = {"name": param_name, "value": param_value_internal, "domain": distribution_to_json(distribution)}
        self._write(_PARAM, trial_id, values)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `BaseStorage`."""
        changed = super().set_trial_state_values(trial_id, state, values)
        trial = super().get_trial(trial_id)
        there, began = {"trial": self._trials_there[trial_id]}, _utc(trial.datetime_start)
        with self._writing() as connection:
            if not state.is_finished():
                return connection.execute(_TAKE, {**there, "began": began}).rowcount == 1 and changed
            for objective, value in enumerate(trial.values or ()):
                stored, kind = TrialValueModel.value_to_stored_repr(value)
                connection.execute(_VALUE, {**there, "objective": objective, "value": stored, "kind": kind.name})
            ended = _utc(trial.datetime_complete)
            connection.execute(_END, {**there, "began": began, "ended": ended, "state": state.name})
        return changed

    def reopen_trial(self, trial_id: int) -> None:
        """Make a failed trial a running one, with its number and settings and without what it has reported.

        Optuna itself has no way back from FAIL.
        """
        there = {"trial": self._trials_there[trial_id]}
        with self._writing() as connection:
            connection.execute(_FORGET, there)
            connection.execute(_REOPEN, there)
        trial = copy.copy(super().get_trial(trial_id))
        trial.state, trial.datetime_complete, trial.user_attrs = TrialState.RUNNING, None, {}
        self._set_trial(trial_id, trial)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See `BaseStorage`."""
        self._database.set_trial_intermediate_value(self._trials_there[trial_id], step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`; as read back, so that a resumed run sees the same."""
        stored = json.dumps(value)
        super().set_trial_user_attr(trial_id, sys.intern(key), _shared(json.loads(stored)))
        self._write(_USER_ATTRIBUTE, trial_id, {"key": key, "value": stored})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`; as read back."""
        stored = json.dumps(value)
        super().set_trial_system_attr(trial_id, key, json.loads(stored))
        self._write(_SYSTEM_ATTRIBUTE, trial_id, {"key": key, "value": stored})

    def _write(self, statement: TextClause, trial_id: int, values: Mapping[str, Any]) -> None:
        self._execute(statement, {"trial": self._trials_there[trial_id], **values})

    def _execute(self, statement: TextClause, values: Mapping[str, Any]) -> None:
        with self._writing() as connection:
            connection.execute(statement, values)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """The transaction of `at_once`, or one of its own."""
        if self._transaction is not None:
            yield self._transaction
            return
        with self._database.engine.begin() as connection:
            yield connection


def at_once(study: Study) -> AbstractContextManager[None]:
    """`StudyDatabase.at_once` of a study that is in one; for a study elsewhere nothing."""
    return study._storage.at_once() if isinstance(study._storage, StudyDatabase) else nullcontext()


class _Connection(sqlite3.Connection):
    """Waits for the disk at SQLite's checkpoints alone: with a write-ahead log the file stays whole all the same."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA synchronous=NORMAL")


def copy_database(file: Path, to: Path) -> None:
    """Copy a study's database by SQLite's backup: one whole file, as of one moment, whoever writes meanwhile.

    For any thread; needs no open `StudyDatabase`.
    """
    with closing(sqlite3.connect(file, WAIT_SECONDS)) as source, closing(sqlite3.connect(to)) as copied:
        source.backup(copied)


def _utc(local: datetime | None) -> datetime | None:
    """A trial's time, which is this machine's local one without a zone, as the tables have it."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def _interned(trial: FrozenTrial) -> FrozenTrial:
    """The trial with one copy of each name that its rows share with those of other trials."""
    trial = copy.copy(trial)
    trial.user_attrs = {sys.intern(key): _shared(value) for key, value in trial.user_attrs.items()}
    return trial


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(key): _shared(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_shared(below) for below in value]
    return value
