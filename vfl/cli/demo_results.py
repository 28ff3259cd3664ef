"""What a demo shows at its end: the models side by side, what it cost, and where everything is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfl import audit, metrics
from vfl.baseline import one_table
from vfl.cli.output import console, metrics_table, rows_table, shown
from vfl.crypto.signatures import certificate_public_bytes, fingerprint
from vfl.linear import LogisticRegression
from vfl.progress import readable_bytes
from vfl.report.facts import GUEST_ONLY, JOINT
from vfl.runner import EVALUATION
from vfl.tables import read_table

if TYPE_CHECKING:
    from vfl.datasets import TwoParties

__all__ = ["show_results"]


def show_results(workspace: Path, data: "TwoParties", seconds: float) -> None:
    """Print the results of a finished demo.

    Parameters
    ----------
    workspace : Path
        With a folder per party and one session in each.
    data : TwoParties
        Both tables: only the demo has them in one place.
    seconds : float
        From its start.

    Raises
    ------
    AuditError
        If an audit log does not verify.
    """
    folders = {name: next((workspace / name / "runs").iterdir()) for name in ("bank", "retailer")}
    report = json.loads((folders["bank"] / "report.json").read_bytes())
    _show_models(report, data, folders["bank"] / EVALUATION)
    _show_costs(report)
    console.print()
    for name, folder in folders.items():
        found = audit.verify(
            folder / "audit.jsonl", certificate_public_bytes((workspace / name / f"{name}.pem").read_bytes())
        )
        console.print(f"{name}:")
        console.print(f"  report     {shown(folder.absolute() / 'report.html')}")
        console.print(f"  audit log  {shown(folder.absolute() / 'audit.jsonl')}")
        console.print(
            f"             verified: {found.messages} messages left {name}, signed by "
            f"{fingerprint(found.public_bytes)[:14]}..."
        )
    console.print(f"\nThe demo took {seconds:.0f} s.")


def _show_models(report: dict[str, Any], data: "TwoParties", evaluation: Path) -> None:
    pooled, columns = _pooled(data, evaluation)
    alone, joint, found = report["metrics"][GUEST_ONLY], report["metrics"][JOINT], report["alignment"]
    console.print(
        f"\nCommon customers: {found['common_rows']} of {data.bank.height} at the bank and "
        f"{data.retailer.height} at the retailer. Loans in default, {joint['rows']} customers held out:"
    )
    console.print(
        metrics_table(
            {
                f"guest only: the bank's {columns[0]} columns": alone,
                f"joint: with the retailer's {columns[1]}, encrypted": joint,
                "pooled: all in one place, scikit-learn": pooled,
            }
        )
    )
    gain, missing = joint["auc"] - alone["auc"], pooled["auc"] - joint["auc"]
    console.print(
        f"The joint model's AUC is {gain:+.4f} from that of the bank alone, and {-missing:+.4f} from the pooled one."
    )


def _pooled(data: "TwoParties", evaluation: Path) -> tuple[dict[str, float], tuple[int, int]]:
    """Return the figures of scikit-learn on both tables, for the customers that the run held out."""
    import polars as pl

    bank, retailer = data.bank[data.common[:, 0]], data.retailer[data.common[:, 1]]
    features = pl.concat([bank.drop("phone", "default"), retailer.drop("phone")], how="horizontal")
    held_out = bank["phone"].is_in(read_table(evaluation, text=["phone"])["phone"].to_list())
    y, test = bank["default"].to_numpy(), held_out.to_numpy()
    p = one_table(
        LogisticRegression(), features.filter(~held_out), y[~test], features.filter(held_out), "demo"
    )
    return metrics.summary(y[test], p), (bank.width - 2, retailer.width - 1)


def _show_costs(report: dict[str, Any]) -> None:
    phases = report["phases"]
    rows = [
        (
            phase["name"],
            f"{phase['seconds']:.1f}",
            readable_bytes(phase["sent"]),
            readable_bytes(phase["received"]),
        )
        for phase in phases
    ]
    sent, received = (readable_bytes(sum(phase[way] for phase in phases)) for way in ("sent", "received"))
    rows.append(("all", f"{sum(phase['seconds'] for phase in phases):.1f}", sent, received))
    console.print(rows_table(("phase", "seconds", "bank to retailer", "retailer to bank"), rows))
