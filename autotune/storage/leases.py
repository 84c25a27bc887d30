"""The lease: one driver a study, and a dead driver's study can be resumed."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from autotune.exceptions import StorageError, StudyConflict
from autotune.storage.connection import Store
from autotune.storage.models import LeaseRow
from autotune.storage.records import LeaseRecord
from autotune.storage.studies import study_row

_log = logging.getLogger(__name__)

LEASE_SECONDS = 9.0
"""A driver elsewhere that did not renew its lease for so long is dead. Here, its process is
looked at and nobody waits."""

RENEW_SECONDS = 1.5

_PROC = Path("/proc")
_LOOK_SECONDS = 0.5


def host_key() -> str:
    """Names the boot and the process-id namespace: where a pid has a meaning.

    A host name alone does not: containers on different machines may share one.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat(_PROC / 'self/ns/pid').st_ino}"
    except OSError:  # no /proc: processes of other drivers cannot be looked at
        return ""


def process_started(pid: int) -> str | None:
    """Start of a process in clock ticks since boot; None if there is none, or only a zombie.

    See proc_pid_stat(5): the name in parentheses may hold anything, so fields are counted
    from its end; field 3 is the state, field 22 the start.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else fields[19].decode()


def _record(row: LeaseRow) -> LeaseRecord:
    return LeaseRecord.model_validate(
        {name: getattr(row, name) for name in LeaseRecord.model_fields}
    )


def _driver_is_gone(row: LeaseRow) -> bool:
    """Whether the holder ran here and its process has ended (or its pid was reused)."""
    key = host_key()
    return bool(key) and row.host_key == key and process_started(row.pid) != row.process_started


class Leases(Store):
    """Operations on leases."""

    def acquire_lease(
        self,
        study_id: int,
        owner: str,
        ttl: float = LEASE_SECONDS,
        patience: float = 0.0,
    ) -> LeaseRecord | None:
        """Become the study's driver.

        A lease that was not renewed for its ``ttl`` seconds, or whose process on this machine is
        gone, is taken over. Acquiring one's own lease again renews it.

        Args:
            owner: names this launch.
            ttl: seconds after which others may take it over, if it is not renewed.
            patience: where the holder is elsewhere, so that nothing but its renewals tells
                whether it lives, watch them for so many seconds at most. By this process's
                monotonic clock: it does not matter if somebody sets the other clocks.

        Returns:
            The lease of the dead driver that was taken over, or None: then nothing needs to be
            cleared.

        Raises:
            StudyConflict: if a live driver holds it, naming its host and pid.
        """
        pid = os.getpid()
        mine = {
            "owner": owner,
            "host": socket.gethostname(),
            "host_key": host_key(),
            "pid": pid,
            "process_started": process_started(pid) or "",
            "ttl": ttl,
        }

        def acquire(session: Session) -> LeaseRecord | None:
            name = study_row(session, study_id).name
            # Locks the row on PostgreSQL; on SQLite the transaction is the only writer.
            row = session.scalar(
                select(LeaseRow).where(LeaseRow.study_id == study_id).with_for_update()
            )
            now = self._now(session)
            if row is None:
                # Two first drivers at once: the second insert breaks the primary key.
                session.add(LeaseRow(study_id=study_id, acquired_at=now, renewed_at=now, **mine))
                return None
            before = _record(row)
            # before a clock was set back it was renewed in the future
            expired = abs(now - row.renewed_at) > row.ttl or row.renewed_at == unchanged
            if row.owner != owner and not expired and not _driver_is_gone(row):
                raise StudyConflict(
                    f"study {name!r} is being driven by process {row.pid} on {row.host} "
                    f"(seen {max(0.0, now - row.renewed_at):.0f} s ago); wait for it, "
                    f"end it with `kill -INT {row.pid}` there, or use another --study-name"
                )
            session.execute(
                update(LeaseRow)
                .where(LeaseRow.study_id == study_id)
                .values(acquired_at=now, renewed_at=now, **mine)
            )
            return None if before.owner == owner else before

        unchanged: float | None = None
        try:
            return self._write(acquire, "acquiring the study's lease")
        except StudyConflict:
            unchanged = self._watch(study_id, patience)
            if unchanged is None:
                raise
        return self._write(acquire, "acquiring the study's lease")

    def _watch(self, study_id: int, patience: float) -> float | None:
        """When the lease was last renewed, if that stays so for its ttl; None if it is renewed,
        if the holder can be seen from here, or if that would take too long."""
        first = self.lease(study_id)
        if first is None or first.host_key == host_key() or first.ttl > patience:
            return None
        deadline = time.monotonic() + first.ttl
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            lease = self.lease(study_id)
            if lease is None or lease.renewed_at != first.renewed_at:
                return None
        return first.renewed_at

    def renew_lease(self, study_id: int, owner: str) -> None:
        """Say that the driver lives; call it several times within the ttl.

        Raises:
            StudyConflict: if another driver took the study over: this one must end.
        """

        def renew(session: Session) -> None:
            changed = session.execute(
                update(LeaseRow)
                .where(LeaseRow.study_id == study_id, LeaseRow.owner == owner)
                .values(renewed_at=self._now(session))
                .returning(LeaseRow.study_id)
            ).first()
            if changed is None:
                row = session.get(LeaseRow, study_id)
                by = f" by process {row.pid} on {row.host}" if row else ""
                raise StudyConflict(
                    f"study {study_row(session, study_id).name!r} was taken over{by}, as this "
                    "driver did not renew its lease in time; this launch ends"
                )

        self._write(renew, "renewing the study's lease")

    def release_lease(self, study_id: int, owner: str) -> None:
        """Give the study up; nothing happens if another driver has it."""

        def release(session: Session) -> None:
            session.execute(
                delete(LeaseRow).where(LeaseRow.study_id == study_id, LeaseRow.owner == owner)
            )

        self._write(release, "releasing the study's lease")

    def lease(self, study_id: int) -> LeaseRecord | None:
        """Who drives the study now, or did and died; None if nobody."""
        with self._reading("reading the study's lease") as session:
            row = session.get(LeaseRow, study_id)
            return None if row is None else _record(row)

    def is_driven(self, study_id: int) -> bool:
        """Whether a live driver holds the study: else the state ``running`` is out of date."""
        with self._reading("reading the study's lease") as session:
            row = session.get(LeaseRow, study_id)
            if row is None or _driver_is_gone(row):
                return False
            return abs(self._now(session) - row.renewed_at) <= row.ttl


class Heartbeat:
    """Renews a lease from a thread of its own: proposing a configuration, or a slow database, may
    keep the study's loop longer than the lease."""

    def __init__(self, leases: Leases, study_id: int, owner: str) -> None:
        self._leases = leases
        self._study_id = study_id
        self._owner = owner
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more. Idempotent."""
        self._end.set()

    def _beat(self) -> None:
        while not self._end.wait(RENEW_SECONDS):
            try:
                self._leases.renew_lease(self._study_id, self._owner)
            except StudyConflict:  # taken over: the study's loop is told when it renews
                return
            except StorageError as error:
                _log.warning("%s", error)
