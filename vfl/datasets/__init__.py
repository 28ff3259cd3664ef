"""Data to try the library on: a real credit table split between two parties, and generated tables.

Nothing here is secret, so numpy's generator is used and a seed gives the same tables again.
"""

import importlib.resources
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["Partition", "TwoParties", "german_credit", "load_german_credit", "synthetic"]

# Berlin, Frankfurt, Hamburg, Cologne, Munich: area code and the start of a number. The German regulator keeps
# the 1,000 numbers that follow each start for films and fiction (notice 148/2021), so nobody is called.
FICTITIOUS = (("30", "23125"), ("69", "90009"), ("40", "66969"), ("221", "4710"), ("89", "99998"))

# {0} area code, {1} start, {2} last three digits. One notation is common to both parties.
BANK_NOTATIONS = ("+49 {0} {1}{2}", "0{0}/{1}{2}", "+49{0}{1}{2}", "0049 {0} {1} {2}")
RETAILER_NOTATIONS = ("0{0}/{1}{2}", "(0{0}) {1}-{2}", "0049-{0}-{1}{2}", "+49 (0){0} {1} {2}", "0{0}.{1}{2}")

COMMON, BANK_ONLY = 820, 80  # of 1,000 people; the remaining 100 are customers of the retailer alone

CHECKING = {
    "below_0": "... < 0 DM",
    "0_to_200": "0 <= ... < 200 DM",
    "200_or_more": "... >= 200 DM / salary assignments for at least 1 year",
}
HISTORY = {
    "critical": "critical account/ other credits existing (not at this bank)",
    "delayed": "delay in paying off in the past",
    "paid_here": "all credits at this bank paid back duly",
    "none_taken": "no credits taken/ all credits paid back duly",
}
PURPOSE = {
    "new_car": "car (new)",
    "used_car": "car (used)",
    "furniture": "furniture/equipment",
    "education": "education",
    "business": "business",
}
SAVINGS = ("... < 100 DM", "100 <= ... < 500 DM", "500 <= ... < 1000 DM", "... >= 1000 DM")
EMPLOYMENT = ("unemployed", "... < 1 year", "1 <= ... < 4 years", "4 <= ... < 7 years", "... >= 7 years")
PROPERTY = (
    "unknown / no property",
    "car or other, not in attribute Savings account/bonds",
    "building society savings agreement/ life insurance",
    "real estate",
)


class TwoParties(NamedTuple):
    """A bank's and a retailer's table, and who is in both.

    Attributes
    ----------
    bank, retailer : polars.DataFrame
        Tables of the guest and of the host, in unrelated orders.
    common : ndarray of int64, shape (customers in common, 2)
        The truth: row at the bank and row at the retailer of each common customer.
    """

    bank: pl.DataFrame
    retailer: pl.DataFrame
    common: NDArray[np.int64]


class Partition(NamedTuple):
    """Generated tables of a guest and a host, and who is in both.

    Attributes
    ----------
    guest, host : polars.DataFrame
        Their tables, in unrelated orders.
    common : ndarray of int64, shape (customers in common, 2)
        The truth: row at the guest and row at the host of each common customer.
    """

    guest: pl.DataFrame
    host: pl.DataFrame
    common: NDArray[np.int64]


def load_german_credit() -> pl.DataFrame:
    """Return the German Credit table as published: 1,000 rows, 20 columns, ``creditability`` the label.

    One published attribute, personal status and sex, is not in it; README.md in this folder says why.

    Source: H. Hofmann, Statlog (German Credit Data), UCI Machine Learning Repository, 1994,
    doi 10.24432/C5NC77, licence CC BY 4.0.
    """
    packed = importlib.resources.files(__name__).joinpath("german_credit.csv.gz").read_bytes()
    return pl.read_csv(packed, infer_schema_length=None)


def german_credit(seed: int = 18) -> TwoParties:
    """Split the German Credit table between a bank and a retailer that sells on credit.

    The bank (guest) knows the account, the credit history, the loan and its outcome, ``default`` (1 is bad).
    The retailer (host) knows what the customer declared at the till: purpose, savings, employment, property,
    housing. 820 people are customers of both, 80 of the bank alone, 100 of the retailer alone. ``phone``
    identifies them, written in several ways: as strings about 40 are equal, as numbers ("phone:DE") all 820.
    All other columns are numbers, ready for a linear model.

    Parameters
    ----------
    seed : int
        Chooses who is whose customer, the orders, the telephone numbers and their notations.
    """
    rng = np.random.default_rng(seed)
    people = load_german_credit()
    bank_people, retailer_people, common = _memberships(len(people), COMMON, BANK_ONLY, rng)
    numbers = rng.permutation(1000 * len(FICTITIOUS))[: len(people)]
    bank = _bank_columns(people)[bank_people]
    retailer = _retailer_columns(people)[retailer_people]
    return TwoParties(
        bank.insert_column(0, _phones(numbers[bank_people], BANK_NOTATIONS, rng)),
        retailer.insert_column(0, _phones(numbers[retailer_people], RETAILER_NOTATIONS, rng)),
        common,
    )


def synthetic(
    rows: int, guest_columns: int, host_columns: int, *, seed: int = 0, overlap: float = 1.0
) -> Partition:
    """Generate two tables whose common customers follow one logistic model.

    The features are independent standard normal values; the weights are scaled so that the log-odds have a
    standard deviation of 2, spread over both parties' columns.

    Parameters
    ----------
    rows : int
        Customers of each party.
    guest_columns, host_columns : int
        Feature columns g0, g1, ... and h0, h1, ...
    seed : int
        Chooses everything.
    overlap : float
        Share of each party's customers that are also the other's.

    Returns
    -------
    Partition
        Both tables have a text column ``id``; the guest's also has ``label`` (0 or 1).
    """
    rng = np.random.default_rng(seed)
    shared = round(rows * overlap)
    people = 2 * rows - shared
    guest_people, host_people, common = _memberships(people, shared, rows - shared, rng)
    x = rng.standard_normal((people, guest_columns + host_columns))
    w = rng.standard_normal(guest_columns + host_columns)
    log_odds = x @ (2 * w / np.linalg.norm(w))
    table = pl.DataFrame(
        {"id": [f"c{number:08d}" for number in rng.permutation(people)]}
        | {f"g{i}": x[:, i] for i in range(guest_columns)}
        | {f"h{i}": x[:, guest_columns + i] for i in range(host_columns)}
        | {"label": (rng.random(people) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)}
    )
    guest = table.select("id", *(f"g{i}" for i in range(guest_columns)), "label")[guest_people]
    host = table.select("id", *(f"h{i}" for i in range(host_columns)))[host_people]
    return Partition(guest, host, common)


def _memberships(
    people: int, common: int, first_only: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Deal people out: the rows of each party as numbers of people, and the rows of those in common."""
    dealt = rng.permutation(people)
    first = rng.permutation(dealt[: common + first_only])
    second = rng.permutation(np.concatenate([dealt[:common], dealt[common + first_only :]]))
    _, in_first, in_second = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return first, second, np.column_stack([in_first, in_second])


def _bank_columns(people: pl.DataFrame) -> pl.DataFrame:
    return people.select(
        *_flags("checking", "status_of_existing_checking_account", CHECKING),
        *_flags("history", "credit_history", HISTORY),
        pl.col("credit_amount").alias("amount"),
        pl.col("duration_in_month").alias("duration"),
        pl.col("number_of_existing_credits_at_this_bank").alias("existing_credits"),
        (pl.col("creditability") == "bad").cast(pl.Int64).alias("default"),
    )


def _retailer_columns(people: pl.DataFrame) -> pl.DataFrame:
    return people.select(
        *_flags("purpose", "purpose", PURPOSE),
        _level("savings", "savings_account_and_bonds", SAVINGS),
        _flag("savings_unknown", pl.col("savings_account_and_bonds") == "unknown/ no savings account"),
        _level("employment", "present_employment_since", EMPLOYMENT),
        _level("property", "property", PROPERTY),
        _flag("owns_home", pl.col("housing") == "own"),
        _flag("under_26", pl.col("age_in_years") < 26),
        pl.col("installment_rate_in_percentage_of_disposable_income").alias("instalment_rate"),
        _flag("other_plans", pl.col("other_installment_plans") != "none"),
        _flag("guarantor", pl.col("other_debtors_or_guarantors") == "guarantor"),
    )


def _flags(stem: str, column: str, names: dict[str, str]) -> list[pl.Expr]:
    return [_flag(f"{stem}_{name}", pl.col(column) == value) for name, value in names.items()]


def _flag(name: str, condition: pl.Expr) -> pl.Expr:
    return condition.cast(pl.Int64).alias(name)


def _level(name: str, column: str, order: tuple[str, ...]) -> pl.Expr:
    """Return the place of a value in `order`; 0 for a value that has none (savings that are unknown)."""
    places = {value: place for place, value in enumerate(order)}
    return pl.col(column).replace_strict(places, default=0, return_dtype=pl.Int64).alias(name)


def _phones(numbers: NDArray[np.int64], notations: tuple[str, ...], rng: np.random.Generator) -> pl.Series:
    chosen = rng.integers(len(notations), size=len(numbers))
    texts = [
        notations[notation].format(*FICTITIOUS[number // 1000], f"{number % 1000:03d}")
        for number, notation in zip(numbers.tolist(), chosen.tolist(), strict=True)
    ]
    return pl.Series("phone", texts)
