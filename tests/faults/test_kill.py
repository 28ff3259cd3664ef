"""A process that is killed in the middle of a training: the other one ends with a message that names the peer."""

import signal
import time
from pathlib import Path

import pytest

from tests.parties import train_for_long, two_parties, vfl_process, wait_for_training
from vfl import audit
from vfl.errors import AuditError


@pytest.mark.parametrize("victim", ["bank", "shop"])
def test_the_other_side_of_a_killed_process_ends_in_time_and_says_who(tmp_path: Path, victim: str) -> None:
    parties = dict(zip(("bank", "shop"), two_parties(tmp_path, rows=3000), strict=True))
    train_for_long(*parties.values())
    survivor = "shop" if victim == "bank" else "bank"
    processes = {name: vfl_process("run", party.job) for name, party in parties.items()}
    try:
        wait_for_training(parties["bank"])
        processes[victim].send_signal(signal.SIGKILL)
        start = time.monotonic()
        _, error = processes[survivor].communicate(timeout=60)
        seconds = time.monotonic() - start
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()

    assert seconds < 30
    assert processes[victim].returncode == -signal.SIGKILL
    assert processes[survivor].returncode == 3
    assert error.startswith("error: ") or "\nerror: " in error
    assert victim in error.splitlines()[-1]
    assert "Traceback" not in error

    # nothing half-made: no model, no report; the survivor's log is whole and signed, the victim's is not
    for name, party in parties.items():
        assert not list(party.job.parent.glob("*.model"))
        (log,) = party.job.parent.glob("runs/*/audit.jsonl")
        assert not log.with_name("report.json").exists()
        if name == survivor:
            assert audit.verify(log).summary["outcome"] != "done"
        else:
            with pytest.raises(AuditError):
                audit.verify(log)
