"""A retailer in a process of its own: run as a script by the tests, which let it work, hang or die."""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.channels import BANK, RETAILER, Blob, Identity, endpoint
from vfl.protocols.channel import Channel, run
from vfl.protocols.grpc import connect


async def work(channel: Channel, mode: str) -> None:
    if mode == "leave":  # the process ends without closing
        await channel.send(Blob(data=b"ready"))
        await channel.recv(Blob, size=1)
    elif mode == "flood":
        await channel.send(Blob(data=b"ready"))
        while True:
            await channel.send(Blob(data=bytes(16 << 20)))
    elif mode == "freeze":
        await channel.send(Blob(data=b"ready"))
        await channel.recv(Blob, size=1)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif mode == "hang":  # alive, with heartbeats, and never coming back
        await channel.send(Blob(data=b"ready"))
        signal.pause()
    elif mode == "slow":  # reads when the bank says so, and reports how much memory it took
        await channel.send(Blob(data=b"ready"))
        before = peak_bytes()
        await channel.recv(Blob, size=1)
        sys.stdin.readline()
        for _ in range(60):
            await channel.recv(Blob, size=4 << 20)
        await channel.send(Blob(data=(peak_bytes() - before).to_bytes(8, "big")))
        channel.close()


def peak_bytes() -> int:
    """Return the largest resident size that this process had."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise OSError("the kernel does not report VmHWM")


def main() -> None:
    mode, port = sys.argv[1], int(sys.argv[2])
    told = json.loads(sys.stdin.readline())
    mine = Identity(told["key"].encode(), told["certificate"].encode())
    bank = Identity(b"", told["bank"].encode())
    seconds = {"silence_seconds": 5.0, "stall_seconds": 60.0}
    run(work(connect(endpoint(mine, bank, dial=port, seconds=seconds), RETAILER, BANK), mode))


if __name__ == "__main__":
    main()
