"""A frozen round: an incompatible change of keys, masks, shares, digests or packing is noticed.

``python -m tests.protocols.test_secagg_vectors`` writes the file again; do that for a change that is meant to be
incompatible, together with a new version of the protocol.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.cohorts import SESSION, Cohort, expected
from vfl.crypto.signatures import IdentityKey
from vfl.errors import VFLError
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import Stage
from vfl.protocols.wire import Message, encode

FILE = Path(__file__).resolve().parents[1] / "vectors" / "secagg.json"


@cache
def frozen() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


def unsigned(message: Message) -> str:
    """Return the hash of a message without its signature, which ECDSA draws anew each time."""
    bare = replace(message, signature=bytes(64)) if hasattr(message, "signature") else message
    return hashlib.sha256(encode(bare)).hexdigest()


def replay(keys: dict[str, str], case: dict[str, Any]) -> dict[str, Any]:
    """Run the round that a case describes; return what has to be the same for ever."""
    chosen = dict(list(keys.items())[: case["clients"]])
    identities = tuple(IdentityKey.from_pem(pem.encode()) for pem in chosen.values())
    pinned = {name: key.public_bytes for name, key in zip(chosen, identities, strict=True)}
    rules = Policy(pinned, colluders=case["colluders"], dropouts=case["dropouts"])
    model = hashlib.sha256(case["model"].encode()).digest()
    task = Task(SESSION, model, case["dimension"], case["bits"], case["encoding"])
    cohort = Cohort(rules, task, case["number"], keys=identities)
    said: dict[str, list[str]] = {name: [] for name in chosen}
    receive = cohort.round.receive

    def noting(name: str, message: Message) -> None:
        said[name].append(unsigned(message))
        receive(name, message)

    cohort.round.receive = noting  # type: ignore[method-assign]
    cohort.play({name: Stage[stage] for name, stage in case["lost"].items()})
    ours = cohort.round
    assert ours.result is not None
    members = [list(chosen).index(name) for name in ours.result.survivors]
    assert ours.result.total.tolist() == expected(members, task)
    return {
        "context": ours._context.hex(),
        "roster": ours._roster.hex(),
        "view": ours._view.hex(),
        "survivors": ours._statement.hex(),
        "messages": said,
        "total": ours.result.total.tolist(),
    }


@pytest.mark.parametrize("number", range(2))
def test_a_frozen_round(number: int) -> None:
    case = frozen()["cases"][number]
    assert replay(frozen()["keys"], case["given"]) == case["expected"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "another"), ("number", 8), ("colluders", 0), ("encoding", "x"), ("dropouts", 1), ("bits", 24)],
)
def test_every_fact_changes_every_digest(field: str, value: Any) -> None:
    case = frozen()["cases"][0]
    other = replay(frozen()["keys"], case["given"] | {field: value})
    for digest in ("context", "roster", "view", "survivors"):
        assert other[digest] != case["expected"][digest]
    assert other["messages"]["silo000"][2] != case["expected"]["messages"]["silo000"][2]  # the masked vector


@pytest.mark.parametrize("negative", range(3))
def test_frozen_refusals(negative: int) -> None:
    case = frozen()["negative"][negative]
    with pytest.raises(VFLError) as caught:
        replay(frozen()["keys"], frozen()["cases"][0]["given"] | case["change"])
    assert type(caught.value).__name__ == case["error"]


def main() -> None:
    """Write the vectors anew, with the keys that they have."""
    vectors = frozen()
    for case in vectors["cases"]:
        case["expected"] = replay(vectors["keys"], case["given"])
    FILE.write_text(json.dumps(vectors, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
