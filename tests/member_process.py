"""A client of a cohort as its user writes it, in a process of its own; a test may let it kill itself in a round.

Arguments: the configuration, numbers for the vector, how many answers it gives before it dies (9: it lives). It prints
each result as a line of JSON and waits for a line before the second call.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import vfl
from vfl.protocols.secagg.client import Contribution
from vfl.protocols.wire import Message


def kill_before(answers: int) -> None:
    """Let this process die by SIGKILL instead of giving an answer."""
    answer = Contribution.answer

    def deadly(self: Contribution, message: Message) -> Message:
        if self.answered == answers:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(self, message)

    Contribution.answer = deadly  # type: ignore[method-assign]


def main() -> None:
    config, numbers, answers = sys.argv[1:]
    kill_before(int(answers))
    values = np.array(json.loads(numbers))
    with vfl.join(config) as cohort:
        total = vfl.secure_sum(values, bound=100.0)
        print(json.dumps([total.tolist(), cohort.survivors]), flush=True)
        sys.stdin.readline()
        mean = vfl.secure_mean(values, weight=3, bound=100.0)
        print(json.dumps([mean.tolist(), cohort.survivors]), flush=True)


if __name__ == "__main__":
    main()
