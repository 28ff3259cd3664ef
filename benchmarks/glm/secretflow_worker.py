"""Runs with SecretFlow's interpreter, not with ours: `secretflow_worker.py ss-lr|hess-lr EPOCHS FOLDER`.

Reads rows.npz from the folder and writes result.json. The model is trained twice and the second training counts,
when everything is compiled. SS-LR runs on CHEETAH: two parties, no dealer. HESS-LR refuses CHEETAH's shares and runs
on SEMI2K, whose correlated randomness comes from one of the parties, which sees what it masks.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ["RAY_DEDUP_LOGS"] = "0"

import numpy as np

PARTIES = ["alice", "bob"]
LEARNING_RATE = 0.1  # the default


class Peer:
    """The devices, and the rows as SecretFlow holds them."""

    def __init__(self, protocol: str, folder: Path) -> None:
        self.sf = importlib.import_module("secretflow")
        self.spu_module = importlib.import_module("spu")
        testing = importlib.import_module("secretflow.utils.testing")
        self.data = importlib.import_module("secretflow.data")
        self.sf.init(PARTIES, address="local", num_cpus=32, log_to_driver=False)
        self.alice, self.bob = (self.sf.PYU(name) for name in PARTIES)
        self.field = self.spu_module.FieldType.FM64
        kind = getattr(self.spu_module.ProtocolKind, protocol)
        self.cluster = testing.cluster_def(PARTIES, {"protocol": kind, "field": self.field})
        self.spu = self.sf.SPU(self.cluster)
        rows = np.load(folder / "rows.npz")
        self.test = rows["test"]
        train = ~self.test
        self.rows = int(train.sum())
        # the device with the labels comes last: HESS-LR tells the parties apart by it
        self.x = self._vertical({self.bob: rows["host"][train], self.alice: rows["guest"][train]})
        self.x_test = self._vertical(
            {self.bob: rows["host"][self.test], self.alice: rows["guest"][self.test]}
        )
        self.y = self._vertical({self.alice: rows["y"][train].astype(float).reshape(-1, 1)})

    def _vertical(self, parts: dict[Any, Any]) -> Any:
        placed = {device: device(lambda values: values)(values) for device, values in parts.items()}
        return self.data.FedNdarray(placed, self.data.PartitionWay.VERTICAL)

    def key_holder(self, holder: str, evaluator: str) -> Any:
        """Return a device that computes on ciphertexts of one party."""
        return self.sf.HEU(
            {
                "sk_keeper": {"party": holder},
                "evaluators": [{"party": evaluator}],
                "mode": "PHEU",
                "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
                "encoding": {
                    "cleartext_type": "DT_I32",
                    "encoder": "IntegerEncoder",
                    "encoder_args": {"scale": 1},
                },
            },
            self.field,
        )


class Trained(NamedTuple):
    """A model, the seconds of its training and those of one epoch."""

    model: Any
    seconds: float
    per_epoch: float


def ss_lr(peer: Peer, epochs: int) -> Trained:
    """Train SS-LR with all rows in one batch; an epoch is the mean of those after the first."""
    model = importlib.import_module("secretflow.ml.linear.ss_sgd").SSRegression(peer.spu)
    marks: list[float] = []
    start = time.monotonic()
    model.fit(
        peer.x,
        peer.y,
        epochs=epochs,
        batch_size=peer.rows,
        learning_rate=LEARNING_RATE,
        eps=0,
        epoch_callback=lambda epoch, state: marks.append(time.monotonic()),
    )
    seconds = time.monotonic() - start
    return Trained(model, seconds, (marks[-1] - marks[0]) / (epochs - 1))


def hess_lr(peer: Peer, epochs: int) -> Trained:
    """Train HESS-LR with all rows in one batch, the default."""
    kind = importlib.import_module("secretflow.ml.linear.hess_sgd").HESSLogisticRegression
    model = kind(peer.spu, peer.key_holder("bob", "alice"), peer.key_holder("alice", "bob"))
    start = time.monotonic()
    model.fit(peer.x, peer.y, epochs=epochs, learning_rate=LEARNING_RATE)
    peer.sf.wait([model._w])
    seconds = time.monotonic() - start
    return Trained(model, seconds, seconds / epochs)


def main() -> None:
    algorithm, epochs, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    protocol, train = {"ss-lr": ("CHEETAH", ss_lr), "hess-lr": ("SEMI2K", hess_lr)}[algorithm]
    peer = Peer(protocol, folder)
    cold, warm = train(peer, epochs), train(peer, epochs)
    scored = peer.test.any()
    result = {
        "algorithm": algorithm,
        "protocol": protocol,
        "epochs": epochs,
        "seconds": warm.seconds,
        "cold_seconds": cold.seconds,
        "seconds_per_epoch": warm.per_epoch,
        "predicted": np.ravel(peer.sf.reveal(warm.model.predict(peer.x_test))).tolist() if scored else [],
    }
    (folder / "result.json").write_text(json.dumps(result))
    peer.sf.shutdown()


if __name__ == "__main__":
    main()
