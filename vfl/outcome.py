"""What a session leaves behind: the audit log while it runs, the report when it has ended well."""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import ArrayLike

from vfl import metrics
from vfl.audit import AuditHeader, AuditLog
from vfl.errors import AuditError
from vfl.protocols.channel import Record
from vfl.report import AuditTrace, MessageTotal, RunFacts, write_report
from vfl.session import Session, current, software

__all__ = ["Outcome", "facts_of", "record_metrics"]


def record_metrics(model: str, y: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Compute a model's metrics and put them, with its curves, into the session's report.

    Parameters
    ----------
    model : str
        What the report calls it: ``"joint"`` and ``"guest only"`` are compared with each other.
    y : array-like, shape (rows,)
        Binary labels, 0 and 1.
    probabilities : array-like, shape (rows,)
        Predicted probabilities of class 1.

    Returns
    -------
    dict of str to float
        ``auc``, ``ks``, ``log_loss`` and more.

    Leakage
    -------
    Nothing is sent: the report stays with this party.
    """
    facts = current().facts
    facts.metrics[model] = metrics.summary(y, probabilities)
    facts.curves[model] = metrics.curves(y, probabilities)
    return facts.metrics[model]


def facts_of(session: Session, audit: AuditTrace | None = None) -> RunFacts:
    """Return the facts of a session for its report."""
    kept = session.facts
    return RunFacts(
        title=" and ".join([session.name, *(peer.name for peer in session.peers)]),
        session=", ".join(peer.session.hex()[:16] for peer in session.peers),
        party=session.name,
        peer=session.peer_names,
        role=session.role.value,
        started=session.started,
        versions=software(),
        fingerprints=session.fingerprints,
        parameters=dict(kept.parameters),
        metrics=kept.metrics,
        curves=kept.curves,
        history=kept.history,
        history_name=kept.history_name,
        messages=[MessageTotal(**row) for row in session.tally.leakage_table()],
        phases=session.phases.costs,
        alignment=kept.alignment,
        audit=audit,
        notes=_notes(session),
    )


def _notes(session: Session) -> list[str]:
    accepted = ", ".join(session.policy.accept_leakage)
    first = [f"This party accepted the leakage classes {accepted} for this run."] if accepted else []
    return first + session.facts.notes


class Outcome:
    """Opens the audit log of a session after its handshake and writes the report at its end.

    Parameters
    ----------
    session : Session
        Not started yet, so that the handshake's messages are logged too.
    folder : Path
        Gets one sub-folder per session, mode 0700.
    """

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._root = session, folder
        self._early: list[Record] = []
        self._log: AuditLog | None = None
        for channel in session.channels:
            channel.observe(self._observe)

    def _observe(self, record: Record) -> None:
        if record.direction == "received":
            return
        if self._log is None:
            self._early.append(record)
        else:
            self._log.observe(record)

    def __enter__(self) -> Self:
        """Wait for :meth:`open`."""
        return self

    def open(self) -> None:
        """Open the log; the session's handshake is done."""
        session = self._session
        name = f"{session.started:%Y%m%d-%H%M%S}-{session.name}-{session.identifier[:8]}"
        self.folder = self._root / name
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(
                f"cannot make the folder {self._root}: {error.strerror}; set run.output"
            ) from None
        policy = json.dumps(_plain(session.policy), sort_keys=True)
        header = AuditHeader(
            session=session.identifier,
            party=session.name,
            peer=session.peer_names,
            versions=software(),
            config_digest=hashlib.sha256(policy.encode()).hexdigest(),
            columns=list(session.policy.columns),
        )
        self._log = AuditLog.create(self.folder / "audit.jsonl", header, session.identity)
        for record in self._early:
            self._log.observe(record)
        session.folder = self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log; write the report if the session ended well."""
        if self._log is None:
            return
        head = self._log.close({"outcome": "done" if error is None else type(error).__name__})
        if error is None:
            write_report(self.folder, facts_of(self._session, AuditTrace(path="audit.jsonl", head=head)))


def _plain(policy: Any) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in policy.__struct_fields__}
