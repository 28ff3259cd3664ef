"""Transcripts in files, and the command that attacks them: what is no transcript is refused."""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import vfl
from vfl.attacks.findings import Finding, Known, judged
from vfl.attacks.lab import attack
from vfl.attacks.updates import changes
from vfl.cli import execute
from vfl.errors import AuditError, ConfigError, InvalidData, LocalProtocolError
from vfl.horizontal.combining import Secure, SecureGroups
from vfl.horizontal.communication import Quantised, RandomK, TopK
from vfl.horizontal.models import Network, adapted
from vfl.horizontal.optimisation import Local, Scaffold
from vfl.horizontal.participation import Buffered
from vfl.horizontal.partitioning import dealt, iid
from vfl.horizontal.vectors import Rows
from vfl.horizontal.viewing import codec_of, local_of, network_of, update_of
from vfl.horizontal.world import Device, World
from vfl.privacy import ClientPrivacy
from vfl.protocols.horizontal import GlobalModel, Update
from vfl.protocols.secagg.messages import Invitation, MaskedInput, Outcome
from vfl.protocols.wire import encode
from vfl.session import current
from vfl.views import Seen, View

X, Y = load_iris(return_X_y=True)
NETWORK = Network((4, 6, 3), np.arange(3), "tanh")
CLIENTS = dealt(X, Y, iid(150, 9, 1)) | {"client000": Rows(X[:1], Y[:1])}
run = functools.partial(vfl.federate, NETWORK, CLIENTS, rounds=2, local=Local(1, 0.1, 0), seed=3)


def federation(**how: Any) -> View:
    view = View("server")
    run(view=view, **how)
    return view


def known() -> Known:
    """Return the clients' rows and 30 of nobody."""
    parts = [*CLIENTS.items(), ("", Rows(X[::5], Y[::5]))]
    return Known(
        np.concatenate([rows.X for _, rows in parts]),
        np.concatenate([rows.y for _, rows in parts]),
        np.array([name for name, rows in parts for _ in range(len(rows))]),
    )


def same(one: View, two: View) -> bool:
    pairs = zip(one.messages, two.messages, strict=True)
    return (one.party, one.facts) == (two.party, two.facts) and all(
        (a.direction, a.peer, encode(a.message)) == (b.direction, b.peer, encode(b.message)) for a, b in pairs
    )


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"codec": Quantised(4)},
        {"codec": TopK(0.3)},
        {"strategy": Scaffold()},
        {"aggregation": Secure(5.0)},
    ],
    ids=["plain", "quantised", "top-k", "scaffold", "secure"],
)
def test_a_view_comes_back_from_its_file(how: dict[str, Any], tmp_path: Path) -> None:
    view = federation(**how)
    view.save(tmp_path / "server.view")
    assert (tmp_path / "server.view").stat().st_mode & 0o777 == 0o600
    again = View.load(tmp_path / "server.view")
    assert same(view, again)
    network = network_of(again)
    assert network is not None
    assert (network.layers, network.activation, local_of(again)) == ((4, 6, 3), "tanh", Local(1, 0.1, 0))


def test_recording_changes_nothing() -> None:
    assert np.array_equal(run().vector, run(view=View("server")).vector)


def test_the_server_of_a_plain_training_sees_every_update() -> None:
    """Their mean, weighted by the rows that they claim, is the step from each model to the next."""
    view = federation()
    models, updates = view.sent(GlobalModel), view.received(Update)
    assert [m.number for m in models] == [1, 2, 3]
    assert view.counts() == {"horizontal.update": 18}
    first = [message for message in updates if message.number == 1]
    mean = sum(m.rows * update_of(view, m, NETWORK.size) for m in first) / sum(m.rows for m in first)
    assert np.allclose(models[1].vector - models[0].vector, mean)


def test_the_server_of_a_secure_training_sees_masked_vectors_and_sums() -> None:
    view = federation(aggregation=Secure(5.0))
    assert not view.received(Update)
    assert (len(view.received(MaskedInput)), len(view.sent(Outcome))) == (18, 2)
    models = view.sent(GlobalModel)
    total = next(change for change in changes(view, NETWORK) if change.what == "sum")
    assert np.allclose(models[1].vector - models[0].vector, total.update)


def test_groups_lost_clients_and_parts_of_updates() -> None:
    found = [
        c for c in changes(federation(aggregation=SecureGroups(5.0, count=3)), NETWORK) if c.what == "sum"
    ]
    assert [c.name for c in found] == ["3 clients, round 1"] * 3 + ["3 clients, round 2"] * 3
    world = World({"client003": Device(dropout=1.0)})
    view = federation(aggregation=Secure(5.0), world=world)
    total = next(change for change in changes(view, NETWORK) if change.what == "sum")
    models = view.sent(GlobalModel)
    assert np.allclose(models[1].vector - models[0].vector, total.update)
    for how in ({"codec": RandomK(0.3)}, {"privacy": ClientPrivacy(1.0, 1.0, delta=1e-3)}):
        parts = list(changes(federation(aggregation=Secure(5.0), **how), NETWORK))
        assert {c.what for c in parts} == {"masked update"}


def test_buffered_updates_have_the_model_that_they_start_from() -> None:
    view = federation(participation=Buffered(3, 3), local=Local(1, 0.1, 0))
    first = next(change for change in changes(view, NETWORK) if change.owner == "client000")
    assert first.rows == 1
    rows = CLIENTS["client000"]
    assert np.allclose(first.update, -0.1 * NETWORK.gradient(first.start, rows.X, rows.y), atol=1e-6)


def test_a_member_sees_models_alone() -> None:
    views = {name: View(name) for name in list(CLIENTS)[:3]}
    model = adapted(LogisticRegression(), 4, range(3))
    train = functools.partial(vfl.federate, model, rounds=2, local=Local(2, 0.1, 0), aggregation=Secure(20.0))
    vfl.simulate_cohort({n: functools.partial(train, CLIENTS[n], view=view) for n, view in views.items()})
    for view in views.values():
        assert view.counts() == {"horizontal.model": 3}
        assert [change.what for change in changes(view, model)] == ["model", "model"]


def test_an_aggregator_sees_residues_that_look_uniform() -> None:
    result = vfl.simulate_cohort(
        {f"silo{i}": lambda: vfl.secure_sum(np.ones(5000), bound=1.0, fraction_bits=8) for i in range(3)}
    )
    view = result.view_of("aggregator")
    assert view.counts()["secagg.masked"] == 3
    assert {one.verdict for one in attack(view)} == {"fails"}
    bare = View("aggregator")
    for seen in view.messages:
        message = seen.message
        if isinstance(message, MaskedInput):  # what it would be without a mask
            message = msgspec.structs.replace(message, vector=np.full_like(message.vector, 7))
        bare.add(seen.direction, seen.peer, message)
    assert {one.verdict for one in attack(bare)} == {"partly"}
    assert result.view_of("silo1").counts()["secagg.outcome"] == 1
    with pytest.raises(LocalProtocolError, match="nobody"):
        result.view_of("silo9")


# --- attacks on them


def test_the_server_reconstructs_a_row_and_secure_aggregation_leaves_it_nothing() -> None:
    found = attack(federation(), known(), most=1)
    assert [one.attack for one in found] == ["gradient inversion", "membership inference", "model inversion"]
    assert found[0].verdict == "succeeds"
    assert found[0].reached is not None
    assert found[0].reached > 60
    hidden = attack(federation(aggregation=Secure(5.0)), known(), most=1)
    assert [one.target for one in hidden[:2]] == [
        "masked update of client000, round 1",
        "sum: 9 clients, round 1",
    ]
    assert not any(one.verdict == "succeeds" for one in hidden[:2])


def test_without_the_truth_an_attacker_knows_whether_an_update_is_explained() -> None:
    found = attack(federation(), most=2)
    assert [one.verdict for one in found] == ["succeeds", "fails", "open", "open"]
    assert {one.verdict for one in attack(federation(aggregation=Secure(5.0)))[:-2]} == {"fails"}


def test_what_no_attack_works_on() -> None:
    regression = federation_of(adapted(_ridge(), 4), Rows(X, X[:, 0]))
    assert [one.verdict for one in attack(regression)] == ["nothing"]
    assert [one.verdict for one in attack(View("a"))] == ["nothing", "nothing"]
    empty = View(
        "server", {"kind": "federation"} | {k: v for k, v in federation().facts.items() if k != "kind"}
    )
    assert [one.verdict for one in attack(empty)] == ["nothing"]
    with pytest.raises(InvalidData):
        attack(empty, most=0)


def _ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


def federation_of(model: Any, rows: Rows) -> View:
    view = View("server")
    vfl.federate(model, dealt(rows.X, rows.y, iid(len(rows), 3, 0)), rounds=1, view=view)
    return view


@pytest.mark.parametrize(("reached", "verdict"), [(30.0, "succeeds"), (20.0, "partly"), (12.0, "fails")])
def test_verdicts(reached: float, verdict: str) -> None:
    assert judged(reached, 25.0, 12.0) == verdict
    assert Finding("a", "b", "dB", reached, 11.0, "open").plain()["reached"] == reached


# --- sessions of two


@functools.cache
def sessions(security: Any) -> vfl.Simulation:
    rng = np.random.default_rng(1)
    guest, host = rng.normal(size=(200, 2)), rng.normal(size=(200, 3))
    labels = (guest[:, 0] + host[:, 0] > 0).astype(float)
    options: dict[str, Any] = {"batch_size": None, "tol": 0.0} if security == "exchange" else {}
    make = functools.partial(vfl.LogisticRegression, security=security, max_iter=5, **options)

    def bank() -> View:
        view = View.watch(current())
        make().fit(guest, labels)
        return view

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vfl.simulate(bank=bank, shop=lambda: make().fit(host), accept_leakage=["score", "gradient"])


@pytest.mark.parametrize(("security", "verdict"), [("exchange", "succeeds"), ("strict", "nothing")])
def test_views_of_sessions_in_files(security: str, verdict: str, tmp_path: Path, capsys: Any) -> None:
    result = sessions(security)
    for name, view in (("bank", result.view_of("bank")), ("shop", result.view_of("shop"))):
        view.save(tmp_path / name)
        assert same(view, View.load(tmp_path / name))
    watched: View = result["bank"]  # from within the session: without the handshake
    whole = result.view_of("bank").counts()
    assert watched.counts() == {kind: n for kind, n in whole.items() if kind in watched.counts()}
    assert execute(["audit", "attack", str(tmp_path / "bank"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["party"] == "bank"
    assert found["findings"][0]["verdict"] == verdict
    assert attack(View.load(tmp_path / "shop"))[1].verdict == (
        "open" if security == "exchange" else "nothing"
    )


def test_residues_with_what_the_host_knows() -> None:
    rng = np.random.default_rng(2)
    matrix, labels = rng.normal(size=(5, 5)), np.array([0, 1, 0, 1, 1])
    truth = Known(matrix=matrix, gradient=matrix.T @ (0.5 - labels), labels=labels)
    assert attack(sessions("exchange").view_of("shop"), truth)[1].verdict == "succeeds"


def test_a_view_is_one_partys() -> None:
    view, record = View("bank"), sessions("strict").transcript.records[0]
    with pytest.raises(LocalProtocolError, match="not of"):
        View("somebody").observe(record)
    view.observe(record)
    assert len(view.messages) == 1


# --- files


def test_the_command_prints_a_table(tmp_path: Path, capsys: Any) -> None:
    federation().save(tmp_path / "server.view")
    truth = known()
    np.savez(tmp_path / "known.npz", X=truth.X, y=truth.y, owner=truth.owner)  # type: ignore[arg-type]
    command = ["audit", "attack", str(tmp_path / "server.view"), "--known", str(tmp_path / "known.npz")]
    assert execute(command) == 0
    out = capsys.readouterr().out
    for word in ("gradient", "inversion", "membership", "succeeds", "PSNR"):
        assert word in out


def entry(kind: str, raw: bytes, **shape: int) -> list[Any]:
    return ["received", "a", kind, shape, raw]


def container(*entries: Any, **changed: Any) -> bytes:
    whole = {"format": "vfl view 1", "party": "a", "facts": {}, "messages": list(entries)} | changed
    return msgspec.msgpack.encode(whole)


GOOD = encode(GlobalModel(number=1, vector=np.zeros(2)))


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "no transcript"),
        (b'{"kind":"header"}\n', "no transcript"),
        (container()[:-1], "no transcript"),
        (container() + b"x", "no transcript"),
        (container(extra=1), "no transcript"),
        (container(format="vfl view 9"), "format 'vfl view 9'"),
        (container(entry("nobody.knows", b"")), "unknown type 'nobody.knows'"),
        (container(entry("horizontal.model", GOOD, numbers=3)), "message 0"),
        (container(entry("horizontal.model", GOOD, numbers=-2)), "message 0"),
        (container(entry("horizontal.model", GOOD, other=2)), "message 0"),
        (container(entry("horizontal.update", GOOD, update_bytes=2)), "message 0"),
        (container(entry("horizontal.model", b"\x80\x04pickle", numbers=2)), "message 0"),
        (container(["sideways", "a", "horizontal.model", {"numbers": 2}, GOOD]), "no transcript"),
    ],
)
def test_what_is_no_transcript_is_refused(raw: bytes, match: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(AuditError, match=match):
        View.load(path)
    assert execute(["audit", "attack", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be read"):
        View.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "facts",
    [
        {"network": {"layers": [4]}},
        {"network": {"layers": [4, -1], "classes": [0, 1], "activation": "tanh", "penalty": 0}},
        {"network": "tanh"},
        {"local": {"steps": 1}},
        {"local": {"steps": 0, "rate": 1.0, "batch": 1}},
        {"codec": {"name": "Pickled"}},
        {"codec": None},
        {"network": {"layers": [10**9, 10**9, 2], "classes": [0, 1], "activation": "tanh", "penalty": 0}},
        {"network": {"layers": [3, 3], "classes": [0, 1, 2], "activation": "tanh", "penalty": 0}},
    ],
)
def test_facts_that_make_no_sense_are_refused(facts: dict[str, Any]) -> None:
    view = federation()
    view.facts |= facts
    with pytest.raises(AuditError):
        attack(view)


@pytest.mark.parametrize(
    "message",
    [
        MaskedInput(vector=np.zeros(3, np.uint8), signature=bytes(64)),
        Invitation(number=1, answered=0, fields={"dimension": "3"}),
        Outcome(present=np.ones(9, np.uint8), total=np.zeros(3, np.uint8)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_rounds_that_make_no_sense_are_refused(message: Any) -> None:
    view = federation(aggregation=Secure(5.0))
    place = next(i for i, seen in enumerate(view.messages) if isinstance(seen.message, type(message)))
    view.messages[place] = Seen(
        "sent" if type(message) is not MaskedInput else "received", "client000", message
    )
    with pytest.raises(AuditError):
        list(changes(view, NETWORK))


def test_updates_that_are_none_of_the_codec_are_refused() -> None:
    view = federation()
    view.add("received", "client001", Update(number=9, rows=1, seed=1, raw=b"123"))
    with pytest.raises(AuditError, match="codec"):
        list(changes(view, NETWORK))
    assert codec_of(view).decode(b"", 0, 0).size == 0


@pytest.mark.parametrize(
    "arrays",
    [
        {"X": np.zeros((2, 4))},
        {"X": np.zeros((2, 4)), "y": np.zeros(3), "owner": np.array(["", ""])},
        {"strange": np.zeros(2)},
        {"owner": np.array([object()], object)},
    ],
)
def test_known_rows_that_cannot_be_used(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "known.npz", **arrays)
    with pytest.raises(ConfigError, match=r"known\.npz"):
        Known.load(tmp_path / "known.npz")


def test_known_rows_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x80\x04}.")
    for name in ("a", "b"):
        with pytest.raises(ConfigError):
            Known.load(tmp_path / name)
