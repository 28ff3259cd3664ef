"""A client of secure aggregation in a process of its own: run as a script by a test, which may let it kill itself."""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.channels import Identity, endpoint
from tests.cohorts import task, vector
from vfl.crypto.rng import SystemRng
from vfl.crypto.signatures import IdentityKey, certificate_public_bytes
from vfl.protocols.channel import Channel
from vfl.protocols.secagg.client import Client, Contribution
from vfl.protocols.secagg.network import dial, take_part
from vfl.protocols.secagg.policy import Policy
from vfl.protocols.wire import Message


def kill_before(part: Contribution, answers: int) -> None:
    """Let this process die by SIGKILL instead of giving an answer."""
    answer = part.answer

    def deadly(message: Message) -> Message:
        if part.answered == answers:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(message)

    part.answer = deadly  # type: ignore[method-assign]


def main() -> None:
    told = json.loads(sys.stdin.readline())
    pinned = {name: pem.encode() for name, pem in told["certificates"].items()}
    rules = Policy({name: certificate_public_bytes(pem) for name, pem in pinned.items()})
    name = rules.names[told["number"]]
    mine, hub = Identity(told["key"].encode(), pinned[name]), Identity(b"", told["aggregator"].encode())
    client = Client(name, IdentityKey.from_pem(mine.key), rules, SystemRng())
    part = client.contribution(task(), vector(told["number"], task()))
    kill_before(part, told["killed_before"])

    def connected() -> Channel:
        return dial(endpoint(mine, hub, dial=told["port"]), name, "aggregator", SystemRng())

    print(json.dumps(take_part(connected, part, 20.0).total.tolist()))


if __name__ == "__main__":
    main()
