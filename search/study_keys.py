"""Names under which an Optuna study and its trials keep what is ours; workers use them, and need no Optuna for it."""

from __future__ import annotations

ROWS, CURVES, ERROR = "rows", "curves", "error"
"""Names of a trial's user attributes: its rows, the training curves of their models, its error."""
ROWS_SO_FAR = "rows_so_far"
"""What each report but the last has in place of the rows: they are all there is of a trial whose worker dies."""
REFERENCES, REFERENCE_CURVES, QUIET = "reference_rows", "reference_curves", "quiet_figures"
TEACHER_THREADS, SEARCHED_SECONDS = "teacher_threads", "searched_seconds"
"""Names of the study's user attributes: rows and curves of teacher and floor, repeated measurements, the threads that
the teacher was trained with, and how long its runs have searched, if `search.max_seconds` is set."""
WAITS = "waits"
"""In what a worker is sent: whether it shall wait for a speed that another trial measures."""
MAY_PASS = "may_pass"
"""Name of a trial's user attribute, true when it failed for a reason that may be gone: `--resume` runs it again."""
