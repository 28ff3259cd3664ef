"""Client and server of openmined-psi in one process; runs in the peer's environment."""

import importlib
import json
import sys
import time
from pathlib import Path

psi = importlib.import_module("private_set_intersection.python")


def main() -> None:
    folder, sample = Path(sys.argv[1]), int(sys.argv[2])
    guest, host = ((folder / name).read_text().split()[:sample] for name in ("guest.txt", "host.txt"))
    start = time.monotonic()
    client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(1e-9, len(guest), host, psi.DataStructure.RAW)
    response = server.ProcessRequest(client.CreateRequest(guest))
    matched = len(client.GetIntersection(setup, response))
    print(json.dumps({"seconds": time.monotonic() - start, "matched": matched}))


if __name__ == "__main__":
    main()
