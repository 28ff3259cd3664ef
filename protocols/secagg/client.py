"""A client's side of one round: five answers, each given once, each after checks that the aggregator cannot skip.

:class:`Contribution` needs no channel: whoever carries its messages (the role :func:`contribute` here, or another
system's transport) cannot make it reveal more.
"""

from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.agreement import KEY_BYTES, KeyPair, seal, unseal
from vfl.crypto.masking import Words, add_masks, pack, packed_bytes, reduced, unpack, zeros
from vfl.crypto.rng import Rng
from vfl.crypto.shamir import SHARE_BYTES, split
from vfl.crypto.signatures import IdentityKey, verify
from vfl.errors import (
    CohortTooSmall,
    ConfigMismatch,
    InconsistentView,
    InvalidCiphertext,
    InvalidKey,
    LocalProtocolError,
    PeerAuthenticationError,
    PolicyRefused,
    RoundLost,
    UnexpectedMessage,
)
from vfl.protocols.channel import Channel
from vfl.protocols.secagg.messages import (
    SEALED_BYTES,
    Advertise,
    Agreement,
    Bundle,
    Confirmation,
    Invitation,
    Join,
    MaskedInput,
    Outcome,
    Reveal,
    Roster,
    Shares,
    Survivors,
)
from vfl.protocols.secagg.policy import Policy, Task, context
from vfl.protocols.secagg.views import (
    KEYS,
    SURVIVORS,
    VIEW,
    commitment,
    keys_statement,
    mask_key,
    pair_key,
    roster_digest,
    sealing_key,
    survivors_digest,
    view_digest,
)
from vfl.protocols.wire import Message

__all__ = ["OVER", "Client", "Contribution", "Result", "contribute"]

Bits = NDArray[np.bool_]


@final
class Result:
    """What a round gave.

    Attributes
    ----------
    total : ndarray of uint64, shape (dimension,)
        The sum of the survivors' vectors modulo 2^bits.
    survivors : tuple of str
        Whose vectors are in it.
    """

    def __init__(self, total: NDArray[np.uint64], survivors: tuple[str, ...]) -> None:
        self.total, self.survivors = total, survivors


@final
class Client:
    """A party that takes part in rounds.

    Parameters
    ----------
    name : str
        As in the policy.
    identity : IdentityKey
        The key that the policy pins for this name.
    policy : Policy
    rng : Rng
    last_round : int
        Number of the last round that this client may have taken part in; -1 if none. Whoever restarts a client hands it
        in from a file, so that no round number is used twice.
    keep : callable, optional
        Called with the number of every round before anything is said in it, to put it into that file.
    """

    def __init__(
        self,
        name: str,
        identity: IdentityKey,
        policy: Policy,
        rng: Rng,
        last_round: int = -1,
        keep: Callable[[int], None] = lambda number: None,
    ) -> None:
        if policy.clients.get(name) != identity.public_bytes:
            raise LocalProtocolError(f"the policy does not pin this identity key for {name}")
        self.name, self.identity, self.policy, self.rng = name, identity, policy, rng
        self.last_round, self.keep = last_round, keep

    def contribution(self, task: Task, vector: Words) -> "Contribution":
        """Return this client's part of one round over `task` with the vector, residues of shape (dimension,)."""
        return Contribution(self, task, vector)


@final
class Contribution:
    """One round. :meth:`accept` it, then :meth:`answer` each message of the aggregator once.

    Attributes
    ----------
    number : int
        Of the round; -1 before it is accepted.
    answered : int
        Answers given.
    latest : Message or None
        The latest answer: sent again, byte for byte, when a connection was lost.
    """

    def __init__(self, client: Client, task: Task, vector: Words) -> None:
        if vector.shape != (task.dimension,) or vector.dtype.kind != "u":
            raise LocalProtocolError(
                f"the task takes {task.dimension} unsigned residues, not {vector.dtype} of shape {vector.shape}"
            )
        self._client, self.task, self._vector = client, task, vector
        self._policy, self._count = client.policy, len(client.policy.clients)
        self.me = client.policy.names.index(client.name)
        self.number, self.answered = -1, 0
        self.latest: Message | None = None
        self._failed = False

    # --- round 0

    def accept(self, invitation: Invitation) -> None:
        """Compare an invitation with this client's own policy and task; take part in its round unless it is over.

        Raises
        ------
        ConfigMismatch
            Naming what differs: clients, thresholds, model, dimension, modulus, encoding.
        PolicyRefused
            If this client has already taken part in a round of this number or a later one.
        RoundLost
            If this contribution belongs to another round, which is over.
        """
        if self.number not in (-1, invitation.number):
            raise RoundLost(
                f"round {self.number} has ended without {self._client.name}; the aggregator is at round "
                f"{invitation.number}"
            )
        mine, theirs = self._policy.fields() | self.task.fields(), dict(invitation.fields)
        differences: dict[str, tuple[object, object]] = {
            field: (mine.get(field, "nothing"), theirs.get(field, "nothing"))
            for field in sorted(mine.keys() | theirs.keys())
            if mine.get(field) != theirs.get(field)
        }
        if differences:
            raise ConfigMismatch(differences, self._client.name, "the aggregator")
        if self.number == -1 and invitation.answered >= 0:
            self._begin(invitation.number)

    def _begin(self, number: int) -> None:
        client = self._client
        if not client.last_round < number < 1 << 63:
            raise PolicyRefused(
                f"{client.name} has taken part in round {client.last_round} and takes no round {number}: none is "
                "answered twice"
            )
        client.keep(number)
        client.last_round = self.number = number
        self._context = context(self._policy, self.task, number)
        graph = self._policy.graph(self.task, number)
        self._neighbours, self._threshold = graph.neighbours[self.me], graph.threshold
        self._sealing, self._masking = KeyPair.generate(client.rng), KeyPair.generate(client.rng)
        statement = keys_statement(self._context, self.me, self._sealing.public, self._masking.public)
        self._give(
            Advertise(
                sealing_key=self._sealing.public,
                masking_key=self._masking.public,
                signature=client.identity.sign(KEYS, statement),
            )
        )

    def _give(self, answer: Message) -> Message:
        self.latest = answer
        self.answered += 1
        return answer

    def answer(self, message: Message) -> Message:
        """Return the answer to the aggregator's next message; what was refused once is refused for good.

        Raises
        ------
        UnexpectedMessage
            If it is not the next message of the round.
        InconsistentView, PeerAuthenticationError, CohortTooSmall
            If the aggregator contradicts itself, passes on what the clients have not signed, or the cohort is smaller
            than this client's policy allows.
        """
        if self._failed:
            raise LocalProtocolError(f"{self._client.name} has refused round {self.number}")
        step = self.answered
        self._failed = True  # until the answer is there
        if step == 1 and isinstance(message, Roster):
            answer: Message = self._share(message)
        elif step == 2 and isinstance(message, Bundle):
            answer = self._mask(message)
        elif step == 3 and isinstance(message, Survivors):
            answer = self._confirm(message)
        elif step == 4 and isinstance(message, Agreement):
            answer = self._reveal(message)
        else:
            raise UnexpectedMessage(
                f"{type(message).__name__} is no question after {step} answers of a round"
            )
        self._failed = False
        return self._give(answer)

    # --- round 1: shares of the secrets

    def _share(self, roster: Roster) -> Shares:
        present = self._presence(roster.present, "take part")
        if roster.keys[self.me].tobytes() != self._sealing.public + self._masking.public:
            raise InconsistentView(f"the aggregator passes on other keys of {self._client.name} than it sent")
        for other in self._neighbours[present[self._neighbours]]:
            keys = roster.keys[other].tobytes()
            statement = keys_statement(self._context, int(other), keys[:KEY_BYTES], keys[KEY_BYTES:])
            self._check(other, KEYS, statement, roster.signatures[other], "the keys it is said to have sent")
        self._present, self._keys = present, roster.keys
        self._roster = roster_digest(self._context, present, roster.keys)
        rng = self._client.rng
        self._seed = rng.bytes(KEY_BYTES)
        points = [int(other) + 1 for other in self._neighbours]
        seeds = split(self._seed, self._threshold, points, rng)
        secrets = split(self._masking.secret, self._threshold, points, rng)
        sealed = np.zeros((len(points), SEALED_BYTES), dtype=np.uint8)
        self._sealed_by: dict[int, bytes] = {}
        for row, other in enumerate(self._neighbours.tolist()):
            if present[other]:
                shared = self._agree(self._sealing, roster.keys[other, :KEY_BYTES], other)
                self._sealed_by[other] = sealing_key(shared, self._roster, other, self.me)
                key = sealing_key(shared, self._roster, self.me, other)
                sealed[row] = np.frombuffer(seal(key, seeds[row] + secrets[row]), dtype=np.uint8)
        return Shares(sealed=sealed, commitment=commitment(self._seed))

    def _presence(self, octets: NDArray[np.uint8], doing: str, within: Bits | None = None) -> Bits:
        """Return who is present, if the aggregator's list is one that this client may go on with."""
        present = octets.astype(bool)
        if octets.max(initial=0) > 1 or (within is not None and (present & ~within).any()):
            raise InconsistentView("the aggregator lists clients that were not there before")
        if not present[self.me]:
            raise RoundLost(f"the aggregator goes on without {self._client.name}, which answers no more")
        count, near = int(present.sum()), self._neighbours[present[self._neighbours]].size
        if count < self._policy.minimum:
            raise CohortTooSmall(
                f"{count} clients {doing}, {self._client.name} requires {self._policy.minimum} of {self._count}"
            )
        if near < self._fewest:
            raise CohortTooSmall(
                f"{near} neighbours of {self._client.name} {doing}, {self._fewest} are required"
            )
        return present

    @property
    def _fewest(self) -> int:
        """Neighbours that must remain: among all, the threshold counts this client too."""
        return self._threshold - (1 if self._neighbours.size == self._count - 1 else 0)

    def _check(
        self, other: int, purpose: str, statement: bytes, signature: NDArray[np.uint8], what: str
    ) -> None:
        try:
            verify(self._policy.keys[other], purpose, statement, signature.tobytes())
        except PeerAuthenticationError as error:
            raise PeerAuthenticationError(
                f"{self._policy.names[other]} has not signed {what} in this round, over this model and under this "
                "policy: the aggregator tells clients different things, or the keys were changed"
            ) from error

    def _agree(self, pair: KeyPair, public: NDArray[np.uint8], other: int) -> bytes:
        try:
            return pair.agree(public.tobytes())
        except InvalidKey as error:
            raise PeerAuthenticationError(f"{self._policy.names[other]} has sent an invalid key") from error

    # --- round 2: the masked vector

    def _mask(self, bundle: Bundle) -> MaskedInput:
        sharers = self._presence(bundle.present, "have shared their secrets", self._present)
        self._held: dict[int, bytes] = {}
        for row, other in enumerate(self._neighbours.tolist()):
            if sharers[other]:
                try:
                    self._held[other] = unseal(self._sealed_by[other], bundle.sealed[row].tobytes())
                except InvalidCiphertext:
                    continue  # the dealer's fault or the aggregator's: this share will be missing
        if len(self._held) < self._fewest:
            raise InconsistentView(
                f"of the shares for {self._client.name} only {len(self._held)} were sealed for this roster: the "
                "aggregator shows different rosters to different clients, or changes what they send"
            )
        self._sharers = sharers
        self._view = view_digest(self._roster, sharers)
        plus, minus = [mask_key(self._seed, self._view)], list[bytes]()
        for other in self._neighbours[sharers[self._neighbours]].tolist():
            shared = self._agree(self._masking, self._keys[other, KEY_BYTES:], other)
            (plus if self.me < other else minus).append(pair_key(shared, self._view, self.me, other))
        masked = zeros(self.task.dimension, self.task.bits)
        masked[:] = self._vector
        add_masks(masked, plus, minus)
        self._vector = masked[:0]  # the plain one is not needed again
        return MaskedInput(
            vector=pack(masked, self.task.bits),
            signature=self._client.identity.sign(VIEW, self._view),
        )

    # --- round 3: one set of survivors

    def _confirm(self, survivors: Survivors) -> Confirmation:
        alive = self._presence(survivors.present, "have sent their vectors", self._sharers)
        for other in self._neighbours[alive[self._neighbours]]:
            self._check(
                other, VIEW, self._view, survivors.signatures[other], "that it masked among the same clients"
            )
        self._alive = alive
        self._statement = survivors_digest(self._view, alive)
        return Confirmation(signature=self._client.identity.sign(SURVIVORS, self._statement))

    # --- round 4: what unmasks the sum

    def _reveal(self, agreement: Agreement) -> Reveal:
        signers = agreement.present.astype(bool)
        if agreement.present.max(initial=0) > 1 or (signers & ~self._alive).any():
            raise InconsistentView("the aggregator has confirmations of clients that did not survive")
        if signers.sum() < self._policy.quorum:
            raise CohortTooSmall(
                f"{signers.sum()} clients have confirmed the survivors, {self._client.name} requires "
                f"{self._policy.quorum}"
            )
        for other in np.flatnonzero(signers)[: self._policy.quorum].tolist():  # more prove nothing more
            self._check(
                other, SURVIVORS, self._statement, agreement.signatures[other], "this set of survivors"
            )
        shares = np.zeros((self._neighbours.size, SHARE_BYTES), dtype=np.uint8)
        for row, other in enumerate(self._neighbours.tolist()):
            if other in self._held:
                first = (
                    0 if self._alive[other] else SHARE_BYTES
                )  # of the seed, or of the masking key: never both
                shares[row] = np.frombuffer(self._held[other][first : first + SHARE_BYTES], dtype=np.uint8)
        self._held.clear()
        return Reveal(seed=self._seed, shares=shares)

    # --- the end

    def result(self, outcome: Outcome) -> Result:
        """Return the sum as the aggregator tells it: that it is the right one is the aggregator's word."""
        if self.answered != 5:
            raise UnexpectedMessage(f"an outcome after {self.answered} of 5 answers")
        if not np.array_equal(outcome.present, self._alive):
            raise InconsistentView("the aggregator's outcome is over other clients than were confirmed")
        return self.told(outcome)

    def told(self, outcome: Outcome) -> Result:
        """Return a sum that was confirmed without this client: over whom, too, is the aggregator's word."""
        if outcome.present.max(initial=0) > 1 or outcome.present.sum() < self._policy.minimum:
            raise InconsistentView("the aggregator's outcome is over fewer clients than the policy allows")
        task, names = self.task, self._policy.names
        total = reduced(unpack(outcome.total, task.dimension, task.bits), task.bits)
        return Result(total, tuple(names[i] for i in np.flatnonzero(outcome.present)))

    def dims(self, kind: type[Message]) -> dict[str, int]:
        """Return the dimensions that a message of a type has in this round."""
        packed = packed_bytes(self.task.dimension, self.task.bits)
        sizes = {"clients": self._count, "neighbours": self._policy.degree[0], "packed": packed}
        return {name: sizes[name] for name in DIMS.get(kind, ())}


DIMS: dict[type[Message], tuple[str, ...]] = {
    Roster: ("clients",),
    Shares: ("neighbours",),
    Bundle: ("clients", "neighbours"),
    MaskedInput: ("packed",),
    Survivors: ("clients",),
    Agreement: ("clients",),
    Reveal: ("neighbours",),
    Outcome: ("clients", "packed"),
}
"""Names of the dimensions of each message."""

OVER = -1
"""Answers that an invitation counts when the round has ended without the client."""

QUESTIONS: tuple[type[Message], ...] = (Roster, Bundle, Survivors, Agreement)


async def contribute(aggregator: Channel, part: Contribution) -> Result:
    """Run a client's side of one round; after a lost connection, run it again with the same `part`.

    If the round is over and the aggregator keeps its sum (:mod:`.calls`), that is the result.

    Raises
    ------
    ConfigMismatch, PolicyRefused, PeerError, CohortTooSmall, RoundLost
        See :class:`Contribution`; nothing was given that the text does not say.
    ChannelError
        If the connection was lost: the round can be resumed on a new one.
    """
    await aggregator.send(Join(number=part.number, answered=part.answered, task=part.task.fields()))
    invitation = await aggregator.recv(Invitation)
    resumed = part.answered
    part.accept(invitation)
    if invitation.answered == OVER:
        return part.told(await aggregator.recv(Outcome, **part.dims(Outcome)))
    if invitation.answered not in (part.answered, part.answered - 1) or (not resumed and invitation.answered):
        raise InconsistentView(
            f"the aggregator counts {invitation.answered} answers, {part.answered} were given"
        )
    if invitation.answered < part.answered and part.latest is not None:
        await aggregator.send(part.latest)
    for kind in QUESTIONS[part.answered - 1 :]:
        await aggregator.send(part.answer(await aggregator.recv(kind, **part.dims(kind))))
    return part.result(await aggregator.recv(Outcome, **part.dims(Outcome)))
