"""The study database: our tables beside Optuna's, in SQLite or PostgreSQL.

with Database.open("sqlite:///autotune.db") as database:
    study = database.get_study("kinetics")
    print(database.best(study.id)[0].trials[0].params)
"""

from autotune.storage.connection import Retry
from autotune.storage.database import Database
from autotune.storage.queries import WHERE_FIGURES, matches
from autotune.storage.records import (
    BestGroup,
    DatasetRecord,
    LeaseRecord,
    MachineRecord,
    MeasurementRecord,
    StudyRecord,
    StudyState,
    TrialRecord,
    VerificationRecord,
)
from autotune.storage.redaction import redact
from autotune.storage.trials import workload_key

__all__ = [
    "WHERE_FIGURES",
    "BestGroup",
    "Database",
    "DatasetRecord",
    "LeaseRecord",
    "MachineRecord",
    "MeasurementRecord",
    "Retry",
    "StudyRecord",
    "StudyState",
    "TrialRecord",
    "VerificationRecord",
    "matches",
    "redact",
    "workload_key",
]
