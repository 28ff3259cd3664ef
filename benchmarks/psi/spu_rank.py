"""One rank of SecretFlow's intersection; runs in the peer's environment, which has nothing of this project."""

import importlib
import json
import sys
import time
from pathlib import Path

spu, psi = importlib.import_module("spu"), importlib.import_module("spu.psi")

FILES = ("guest.txt", "host.txt")


def loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[0])
    return 0


def main() -> None:
    folder, protocol, port, repeats, rank = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
    items = (folder / FILES[rank]).read_text().split()
    desc = spu.libspu.link.Desc()
    desc.recv_timeout_ms = 600_000
    for other in (0, 1):
        desc.add_party(f"id{other}", f"127.0.0.1:{port + other}")
    link = spu.libspu.link.create_brpc(desc, rank)
    config = psi.MemoryPsiConfig(
        psi_type=psi.PsiType.Value(protocol), receiver_rank=0, broadcast_result=True, curve_type="CURVE_25519"
    )
    starts, ends, traffic, matched = [], [], [], 0
    for _ in range(repeats):
        link.barrier()
        before = loopback_bytes()
        starts.append(time.monotonic())
        matched = len(psi.mem_psi(link, config, items))
        ends.append(time.monotonic())
        traffic.append(loopback_bytes() - before)
    print(json.dumps({"starts": starts, "ends": ends, "matched": matched, "loopback_bytes": min(traffic)}))
    link.stop_link()


if __name__ == "__main__":
    main()
