"""The commented files that ``vfl init`` writes: a party's configuration and its job."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DataSection", "Setup", "configuration", "job"]


@dataclass(frozen=True)
class Setup:
    """What a party's configuration says; the lists are empty unless its owner decides otherwise.

    Attributes
    ----------
    name, role, peer : str
    listen, connect : str or None
        "host:port"; one of them.
    accept_leakage, columns : sequence of str
        The policy.
    """

    name: str
    role: str
    peer: str
    listen: str | None = None
    connect: str | None = None
    accept_leakage: Sequence[str] = ()
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class DataSection:
    """What a party's job says about its table."""

    path: str
    on: str
    normalise: str
    label: str | None


def configuration(setup: Setup) -> str:
    """Return the text of ``<name>.toml`` with every setting explained."""
    name, peer = setup.name, setup.peer
    return f"""\
# {name}: who takes part, and what may be done. `vfl check {name}.toml` tests it. Paths are relative to this file.

[party]
# How {peer} and the reports call this party.
name = {_toml(name)}
# guest: holds the labels and gets the scores; host: holds more columns about the same customers.
role = {_toml(setup.role)}
# The private identity key: mode 0600, never to leave this machine.
key = {_toml(f"{name}.key")}
# The certificate that belongs to it: give it to {peer}.
certificate = {_toml(f"{name}.pem")}

# A guest with several hosts writes [[peers]] here and once more for each further host, each with a port of its own.
[peer]
# How {peer} calls itself in its own configuration.
name = {_toml(peer)}
# Its certificate, put here by `vfl trust {peer}.pem --config {name}.toml` after you compared the fingerprint.
certificate = {_toml(f"trusted/{peer}.pem")}
{_address(setup)}
# How long to wait for {peer} to start, in seconds: either side may start first.
wait_seconds = 300.0
# After so many seconds without a sign of life {peer} is given up.
silence_seconds = 20.0
# After so many seconds alive, but without progress, too.
stall_seconds = 600.0

[policy]
# What {peer} or this party may learn beyond the result; nothing by default. A model with security = "exchange" shows
# each row's partial score to the guest and gradients to the host: only if both write ["score", "gradient"] here.
# "payload" lets vfl.enrich hand over columns of common customers.
accept_leakage = {_toml(setup.accept_leakage)}
# Your own columns that may enter a model, and no others. ["*"] would allow all.
columns = {_toml(setup.columns)}
# No alignment with fewer common customers than this; the same number on both sides.
minimum_intersection = 10
# No alignment with a peer that brings more identifiers than this.
max_peer_keys = 10_000_000
# Nor with one that brings more than so many for each of this party's: it could be trying out numbers.
max_size_ratio = 2000
# Nor, if telephone numbers or dates identify customers, with one that brings more than this share of all there are.
max_domain_share = 0.25
# Most alignments, counts and sums with {peer} in 30 days.
max_queries = 50
# Two lists compared with {peer} must be the same or differ in at least so many rows: less would single out customers.
minimum_difference = 10
# Lists that may differ in fewer rows, by the name that the refusal gives.
approved_lists = []
# The file that remembers what was compared with whom.
ledger = "ledger.sqlite"

[run]
# Each session leaves a folder with its report and its audit log in here.
output = "runs"
# 1 shows progress on the terminal, 0 nothing.
verbose = 1
"""


def _address(setup: Setup) -> str:
    if setup.listen is not None:
        return (
            f"# Where this party waits for {setup.peer}. Open this port in the firewall to {setup.peer} alone;\n"
            f'# the other side writes connect = "address-of-{setup.name}:port" instead.\n'
            f"listen = {_toml(setup.listen)}"
        )
    return (
        f"# Where {setup.peer} waits for this party; the other side writes "
        f'listen = "0.0.0.0:port" instead.\nconnect = {_toml(setup.connect)}'
    )


def job(setup: Setup, data: DataSection, security: str = "strict", he: str = "auto") -> str:
    """Return the text of ``<name>.job.toml``: align, fit, save, evaluate.

    Parameters
    ----------
    setup : Setup
    data : DataSection
        A label of None leaves the line out: the host has none.
    security : {"strict", "exchange"}
    he : {"auto", "lattice", "ckks", "paillier"}
    """
    label = "" if data.label is None else f"# The column to predict.\nlabel = {_toml(data.label)}\n"
    return f"""\
# One job of {setup.name} with {setup.peer}: both run `vfl run`, each with a file of its own.
# The sections [model], [model.parameters] and [evaluate] have to be the same on both sides.
session = {_toml(f"{setup.name}.toml")}

[data]
# CSV (also .csv.gz) or Parquet; relative to this file, like every path here.
path = {_toml(data.path)}
# The column that identifies a customer, or a list of columns that do so together.
on = {_toml(data.on)}
# How identifiers are written alike on both sides: exact, casefold, email, phone:DE, date, date:day-first.
normalise = {_toml(data.normalise)}
# Rows without an identifier: "error" or "drop". Rows that share one: "error", "first", "last", "drop" or "all".
nulls = "error"
duplicates = "error"
{label}# The columns to learn from; without this line all others. policy.columns has to allow them.
# columns = ["first", "second"]

[model]
# "logistic" for a label of two classes; "linear" for a number; "poisson", "gamma" or "tweedie" for counts and amounts.
kind = "logistic"

[model.parameters]
# Those of the estimator, e.g. C, max_iter, winsorise. "strict" keeps scores and gradients shared between the parties;
# "exchange" shows them, and needs policy.accept_leakage on both sides.
security = {_toml(security)}
# Encryption: lattice or paillier for strict, ckks or paillier for exchange.
he = {_toml(he)}

[evaluate]
# Share of the common customers that is held out, chosen by a hash of their identifier.
test_size = 0.3
# Another text holds out other customers.
salt = ""

[save]
# This party's half of the model; `vfl predict` needs it.
model = {_toml(f"{setup.name}.model")}
"""


def _toml(value: str | Sequence[str] | None) -> str:
    """Return a TOML string, or an array of strings; both read like JSON."""
    return json.dumps(value if isinstance(value, str) else list(value or ()), ensure_ascii=False)
