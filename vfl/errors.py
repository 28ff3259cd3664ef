"""The errors of the library: one hierarchy, with the blame in the type.

A text names the party, the field, the size and the remedy, and never a secret value. The module is
imported by every layer and imports nothing.
"""

__all__ = [
    "AlignmentError",
    "AuditError",
    "ChannelClosed",
    "ChannelError",
    "ChannelTimeout",
    "CohortTooSmall",
    "ConfigError",
    "ConfigMismatch",
    "CryptoError",
    "DataError",
    "Deadlock",
    "DuplicateIds",
    "EncodingOverflow",
    "InconsistentView",
    "InvalidCiphertext",
    "InvalidData",
    "InvalidIds",
    "InvalidKey",
    "InvalidPoint",
    "KeyMismatch",
    "LeakageWarning",
    "LocalProtocolError",
    "MalformedMessage",
    "MessageTooLarge",
    "MissingValues",
    "PeerAborted",
    "PeerAuthenticationError",
    "PeerError",
    "PolicyRefused",
    "ProtocolError",
    "RoundLost",
    "SchemaMismatch",
    "TrainingDiverged",
    "UnexpectedMessage",
    "VFLError",
]


class VFLError(Exception):
    """Base of every error that the library raises on purpose."""


class CryptoError(VFLError):
    """A cryptographic object is not what it must be."""


class KeyMismatch(CryptoError):
    """Two objects belong to different keys."""


class EncodingOverflow(CryptoError):
    """A number does not fit the agreed fixed-point range or the plaintext space."""


class InvalidCiphertext(CryptoError):
    """Received ciphertexts have a wrong width, count, range, level or key."""


class InvalidKey(CryptoError):
    """A received key fails validation."""


class InvalidPoint(CryptoError):
    """Received bytes are not the canonical encoding of an allowed group element or scalar."""


class ProtocolError(VFLError):
    """A protocol cannot go on."""


class LocalProtocolError(ProtocolError):
    """This party used a protocol wrongly: nothing was sent."""


class Deadlock(LocalProtocolError):
    """Every party waits for a message that nobody will send."""


class CohortTooSmall(ProtocolError):
    """Fewer clients take part, or are left, than the policy requires for a sum."""


class RoundLost(ProtocolError):
    """A round of aggregation goes on, or has ended, without this client."""


class PeerError(ProtocolError):
    """The peer broke the protocol."""


class UnexpectedMessage(PeerError):
    """The peer sent a message of another type than the protocol's next one."""


class MalformedMessage(PeerError):
    """The peer's bytes do not decode to the declared fields, types and shapes."""


class PeerAborted(PeerError):
    """The peer stopped and said so."""


class InconsistentView(PeerError):
    """The aggregator tells different clients different things, or contradicts itself."""


class PeerAuthenticationError(PeerError):
    """The peer did not prove that it holds the pinned identity."""


class ChannelError(VFLError):
    """The connection to the peer failed."""


class ChannelClosed(ChannelError):
    """The peer went away: its process ended or the connection was lost."""


class ChannelTimeout(ChannelError):
    """The peer is silent, or alive without progress, for longer than allowed."""


class MessageTooLarge(ChannelError):
    """An announced message is larger than both sides computed beforehand."""


class DataError(VFLError):
    """A table of this party cannot be used as it is."""


class InvalidData(DataError):
    """Values, types or sizes of the features, labels or weights are unusable."""


class MissingValues(DataError):
    """Nulls or NaN where the policy allows none."""


class InvalidIds(DataError):
    """Identifiers are empty, too long, of mixed types or damaged (floats, lost zeros)."""


class DuplicateIds(DataError):
    """The same identifier stands in several rows and the policy allows none."""


class SchemaMismatch(DataError):
    """Columns differ from those the model was trained on or the policy names."""


class AlignmentError(DataError):
    """The parties' rows cannot be aligned, or have too few customers in common."""


class ConfigError(VFLError):
    """A configuration file has an unknown key, a wrong type or names a missing file."""


class PolicyRefused(VFLError):
    """This party's policy does not allow what was asked (columns, leakage)."""


class TrainingDiverged(DataError):
    """The loss grew instead of falling: the step was too large for these data."""


class AuditError(VFLError):
    """An audit log is damaged, was changed or has no valid end."""


class ConfigMismatch(VFLError):
    """The parties run different calls.

    Parameters
    ----------
    differences : dict of str to (object, object)
        Field name to (this party's value, the peer's value).
    me, peer : str
        Names of the two parties.
    """

    def __init__(self, differences: dict[str, tuple[object, object]], me: str, peer: str) -> None:
        self.differences = differences
        lines = [
            f"{name}: {me} has {mine!r}, {peer} has {theirs!r}"
            for name, (mine, theirs) in differences.items()
        ]
        super().__init__(
            f"{me} and {peer} do not run the same call; make these fields equal: " + "; ".join(lines)
        )


class LeakageWarning(UserWarning):
    """A protocol reveals more than its result; the text says what and to whom."""
