"""The libraries to compare with, each in an environment of its own, see :mod:`benchmarks.environments`."""

import json
import subprocess
from pathlib import Path

from benchmarks.environments import OPENMINED, SPU, Unavailable
from benchmarks.parties import free_address
from benchmarks.psi.jobs import Figures, Link, relayed

__all__ = ["SAMPLE", "Unavailable", "openmined", "spu"]

SAMPLE = 100_000  # rows that openmined-psi gets; its time grows linearly and is scaled
LIMIT_SECONDS = 400


def script(name: str) -> str:
    return str(Path(__file__).with_name(name))


def spu(folder: Path, protocol: str, link: Link | None) -> Figures:
    """Run SecretFlow's in-memory intersection in two processes; both get the result.

    Raises
    ------
    Unavailable
        Also after LIMIT_SECONDS: now and then its two processes wait for each other.
    """
    python, ends = SPU.interpreter(), [free_address(), free_address()]
    told = [folder / f"spu-{rank}.json" for rank in (0, 1)]
    with relayed(link, ends[0]) as first, relayed(link, ends[1]) as second:
        seen = [[ends[0], second], [first, ends[1]]]  # a rank listens where it stands itself
        ranks = []
        for rank in (0, 1):
            command = [python, script("spu_rank.py"), str(folder), protocol, str(rank), str(told[rank])]
            command += [f"{host}:{port}" for host, port in seen[rank]]
            ranks.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        try:
            codes = [rank.wait(LIMIT_SECONDS) for rank in ranks]
        except subprocess.TimeoutExpired:
            raise Unavailable(f"spu, {protocol}: not finished after {LIMIT_SECONDS} s") from None
        finally:
            for each in ranks:
                each.kill()
                each.wait()
    if any(codes):
        raise Unavailable(f"spu, {protocol}: exit codes {codes}")
    both = [json.loads(file.read_text()) for file in told]
    return {
        "seconds": max(one["end"] for one in both) - min(one["start"] for one in both),
        "matched": both[0]["matched"],
        "bytes": sum(one["bytes"] for one in both),
        "peak_mib": max(one["peak_mib"] for one in both),
    }


def openmined(folder: Path, rows: int) -> Figures:
    """Run openmined-psi's client and server in one process on a sample; scale the time to all rows.

    Two processes would let half of it overlap: three quarters of the time.
    """
    sample = min(rows, SAMPLE)
    command = [OPENMINED.interpreter(), script("openmined_pair.py"), str(folder), str(sample)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"openmined-psi failed: {done.stderr.strip().splitlines()[-1:]}")
    told: Figures = json.loads(done.stdout.splitlines()[-1])
    return {**told, "sample": sample, "rows": rows, "seconds": told["seconds"] * rows / sample}
