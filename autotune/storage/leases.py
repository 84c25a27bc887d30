"""The lease: one driver a study, and a dead driver's study can be resumed."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from autotune.exceptions import StudyConflict
from autotune.storage.connection import Store
from autotune.storage.models import LeaseRow, StudyRow
from autotune.storage.records import LeaseRecord, StudyState
from autotune.storage.redaction import clean_text
from autotune.storage.studies import handle_requests, study_row

_log = logging.getLogger(__name__)

LEASE_SECONDS = 9.0
"""A driver elsewhere that was seen not to renew its lease for so long is dead. Here, its process
is looked at and nobody waits."""

RENEW_SECONDS = 1.5

_PROC = Path("/proc")
_LOOK_SECONDS = 0.5

_OUT_SECONDS = 2.0
"""A look at the lease that took longer found the database locked or gone: for its holder, too."""


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


def _is_here(lease: LeaseRecord | LeaseRow) -> bool:
    """Whether the holder is a process that can be seen from here."""
    key = host_key()
    return bool(key) and lease.host_key == key


def _process_lives(lease: LeaseRecord | LeaseRow) -> bool:
    """Whether the holder's process is there, and its pid was not reused; for one that is here."""
    return process_started(lease.pid) == lease.process_started


_Look = Callable[[Callable[[Session], float | None], str], float | None]
"""Runs a question to the database in a transaction: `Store._read` or `Store._write`."""


class _Unrenewed(NamedTuple):
    """A lease that nobody renewed while it was watched."""

    renewed_at: float
    watched_until: float
    """By this process's monotonic clock."""


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

        Whether its holder lives is not read off a clock. A holder on this machine lives as long as
        its process does; the lease of one elsewhere is taken over only when it was watched for its
        ``ttl`` and not renewed. Acquiring one's own lease again renews it.

        Args:
            owner: names this launch.
            ttl: seconds for which others must see it not renewed before they take it over.
            patience: watch the renewals of a holder whose process tells nothing, as it is
                elsewhere, for so many seconds at most; without it such a holder lives.

        Returns:
            The lease of the dead driver that was taken over, or None: then nothing needs to be
            cleared.

        Raises:
            StudyConflict: if a live driver holds it, naming its host and pid.
        """
        try:
            return self._acquire(study_id, owner, ttl, None)
        except StudyConflict:
            dead = self._watch(study_id, patience)
            if dead is None:
                raise
        return self._acquire(study_id, owner, ttl, dead)

    def _acquire(
        self, study_id: int, owner: str, ttl: float, dead: _Unrenewed | None
    ) -> LeaseRecord | None:
        """`acquire_lease`; ``dead`` is a lease that was watched."""
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
            if row.owner != owner and not _is_dead(row, dead):
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

        return self._write(acquire, "acquiring the study's lease")

    def _watch(self, study_id: int, patience: float) -> _Unrenewed | None:
        """The lease, if it is not renewed for its ttl; None if it is, if the holder's process
        tells whether it lives, or if that would take more than ``patience`` seconds."""
        first = self.lease(study_id)
        if first is None or first.ttl > patience:
            return None
        if _is_here(first) and first.pid != os.getpid():
            return None
        # A look that writes waits for whom the holder has to wait for.
        return self._unrenewed(first, first.ttl, self._write)

    def _unrenewed(self, lease: LeaseRecord, seconds: float, look: _Look) -> _Unrenewed | None:
        """``lease``, if it is not renewed for so many seconds; None as soon as it is.

        While the database is out its holder cannot renew it, so that time counts for nothing.
        """

        def renewed_at(session: Session) -> float | None:
            query = select(LeaseRow.renewed_at).where(LeaseRow.study_id == lease.study_id)
            return session.scalar(query)

        since = looked = time.monotonic()
        while looked - since < seconds:
            time.sleep(min(_LOOK_SECONDS, seconds))
            if look(renewed_at, "watching the study's lease") != lease.renewed_at:
                return None
            now = time.monotonic()
            if now - looked > _OUT_SECONDS:
                since = now
            looked = now
        return _Unrenewed(lease.renewed_at, looked)

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
                raise _taken_over(session, study_id)

        self._write(renew, "renewing the study's lease")

    def release_lease(self, study_id: int, owner: str) -> None:
        """Give the study up; nothing happens if another driver has it."""

        def release(session: Session) -> None:
            session.execute(
                delete(LeaseRow).where(LeaseRow.study_id == study_id, LeaseRow.owner == owner)
            )

        self._write(release, "releasing the study's lease")

    def end_launch(
        self, study_id: int, owner: str, state: StudyState, reason: str, seconds: float
    ) -> None:
        """Record how a launch ended, and give the study up, in one transaction.

        Args:
            seconds: budget time that was used and not recorded yet.

        Raises:
            StudyConflict: if another driver has the study: then nothing is written.
        """

        def end(session: Session) -> None:
            gone = session.execute(
                delete(LeaseRow)
                .where(LeaseRow.study_id == study_id, LeaseRow.owner == owner)
                .returning(LeaseRow.study_id)
            ).first()
            if gone is None:
                raise _taken_over(session, study_id)
            session.execute(
                update(StudyRow)
                .where(StudyRow.id == study_id)
                .values(
                    state=state,
                    state_reason=clean_text(reason),
                    elapsed_seconds=StudyRow.elapsed_seconds + seconds,
                    updated_at=datetime.now(UTC),
                )
            )
            session.execute(handle_requests(study_id))

        self._write(end, f"setting the study's state to {state}")

    def lease(self, study_id: int) -> LeaseRecord | None:
        """Who drives the study now, or did and died; None if nobody."""

        def read(session: Session) -> LeaseRecord | None:
            row = session.get(LeaseRow, study_id)
            return None if row is None else _record(row)

        return self._read(read, "reading the study's lease")

    def is_driven(self, study_id: int) -> bool:
        """Whether a live driver holds the study: else the state ``running`` is out of date.

        Of a driver elsewhere the last renewal is looked at. Where the clock that wrote it may be
        another than that which is read here, as in a file that machines share, one that seems old
        is watched for some seconds.
        """
        lease = self.lease(study_id)
        if lease is None:
            return False
        if _is_here(lease):
            return _process_lives(lease)
        now = self._read(self._now, "reading the clock")
        if abs(now - lease.renewed_at) <= lease.ttl:
            return True
        if self.address.path is None:
            return False
        return self._unrenewed(lease, 2 * RENEW_SECONDS, self._read) is None


def _is_dead(row: LeaseRow, dead: _Unrenewed | None) -> bool:
    """Whether the holder of a lease is known to be gone."""
    if _is_here(row) and not _process_lives(row):
        return True
    return (
        dead is not None
        and row.renewed_at == dead.renewed_at
        and time.monotonic() - dead.watched_until <= _OUT_SECONDS
    )


def _taken_over(session: Session, study_id: int) -> StudyConflict:
    row = session.get(LeaseRow, study_id)
    by = f" by process {row.pid} on {row.host}" if row else ""
    return StudyConflict(
        f"study {study_row(session, study_id).name!r} was taken over{by}, as this "
        "driver did not renew its lease in time; this launch ends"
    )


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
            except Exception as error:  # whatever it is: without renewals the study is lost
                _log.warning("%s", error)
