"""One rank of SecretFlow's intersection; runs in the peer's environment, which has nothing of this project."""

import importlib
import json
import sys
import time
from pathlib import Path

spu, psi = importlib.import_module("spu"), importlib.import_module("spu.psi")

FILES = ("guest.txt", "host.txt")


def written() -> int:
    """Return the bytes that this process has written so far: hardly any go elsewhere than to the other rank."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def main() -> None:
    folder, protocol, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    items = (folder / FILES[rank]).read_text().split()
    desc = spu.libspu.link.Desc()
    desc.recv_timeout_ms = 1_800_000
    desc.connect_retry_times = 60
    for other, address in enumerate(sys.argv[5:7]):
        desc.add_party(f"id{other}", address)
    link = spu.libspu.link.create_brpc(desc, rank)
    config = psi.MemoryPsiConfig(
        psi_type=psi.PsiType.Value(protocol), receiver_rank=0, broadcast_result=True, curve_type="CURVE_25519"
    )
    link.barrier()
    before, start = written(), time.monotonic()
    matched = len(psi.mem_psi(link, config, items))
    end = time.monotonic()
    told = {
        "start": start,
        "end": end,
        "matched": matched,
        "bytes": written() - before,
        "peak_mib": peak_mib(),
    }
    Path(sys.argv[4]).write_text(json.dumps(told))
    link.stop_link()


if __name__ == "__main__":
    main()
