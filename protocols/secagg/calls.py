"""An aggregator that runs whatever its clients agree to sum: one round after the other, as they ask for them.

Clients name their task when they come (:class:`~vfl.protocols.secagg.messages.Join`). The aggregator begins a round as
soon as as many as the policy's minimum have come for one and the same task; the others get the invitation too, compare
it with their own task and say what differs. No client sums anything that it has not asked for.

A client that was lost in a round, or came when it was over, is given its sum when it asks for the same task: so it can
go on with the others. The sums are kept as long as any client is connected; after that, calls begin anew.
"""

from collections.abc import Callable

from vfl.errors import VFLError
from vfl.protocols.secagg.client import Result
from vfl.protocols.secagg.hall import Hall
from vfl.protocols.secagg.policy import Task

__all__ = ["serve_calls"]

Report = Callable[[Task, int, Result | VFLError], None]


def serve_calls(hall: Hall, number: Callable[[], int], report: Report) -> None:
    """Run rounds until the hall is closed.

    Parameters
    ----------
    hall : Hall
        Whose clients are attended in other threads.
    number : callable
        Returns the number of the next round: higher than all that any aggregator of these clients has ever used.
    report : callable
        Called with the task, the number, and the result or the failure of each round.
    """
    while (task := hall.wanted()) is not None:
        current = number()
        try:
            result: Result | VFLError = hall.run(task, current)
        except VFLError as error:
            result = error
        report(task, current, result)
