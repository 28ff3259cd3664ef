"""The attacker's part against alignments: each attack works without the guard, and the default refuses it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import vfl
from tests.support import DeterministicRng
from vfl.config import PolicyConfig
from vfl.crypto import oprf
from vfl.errors import AlignmentError, ConfigMismatch, LeakageWarning, MalformedMessage, PolicyRefused
from vfl.guards import allowed_peer_keys, domain_size
from vfl.ledger import Ledger
from vfl.protocols.channel import Channel, Party, memory_pair, run_local
from vfl.protocols.psi import dh, exchange, sets
from vfl.protocols.wire import Role

VICTIMS = [f"customer {i}" for i in range(150)]
TARGET = "customer 77"


def table(names: Sequence[str], **columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"id": list(names), **columns})


def count(names: Sequence[str], ledger: Path | None) -> int:
    result = vfl.simulate(
        bank=lambda: vfl.intersection_size(table(names), on="id"),
        shop=lambda: vfl.intersection_size(table(VICTIMS), on="id"),
        ledger=ledger,
    )
    return int(result["bank"])


class TestDifferencing:
    """The bank counts twice, the second time without its target: the difference is the target's membership."""

    LIST = tuple(f"customer {i}" for i in range(50, 200))

    def test_control_two_counts_tell_whether_a_customer_is_common(self) -> None:
        others = [name for name in self.LIST if name != TARGET]
        assert count(self.LIST, None) - count(others, None) == 1
        stranger = [name for name in self.LIST if name != "customer 180"]
        assert count(self.LIST, None) - count(stranger, None) == 0

    @pytest.mark.parametrize("changed", [1, 5, 9])
    def test_the_ledger_refuses_lists_that_differ_in_few_rows(self, changed: int, tmp_path: Path) -> None:
        assert count(self.LIST, tmp_path) == 100
        assert count(self.LIST, tmp_path) == 100  # the same list again tells nothing new
        with pytest.raises(PolicyRefused, match=f"differ in about {changed} rows, at least 10"):
            count(self.LIST[changed:], tmp_path)
        with pytest.raises(PolicyRefused, match=f"differ in about {changed} rows"):
            count([*self.LIST, *(f"new {i}" for i in range(changed))], tmp_path)
        assert count(self.LIST[40:], tmp_path) == 60

    def test_swapping_one_customer_for_another_is_two_rows(self, tmp_path: Path) -> None:
        count(self.LIST, tmp_path)
        with pytest.raises(PolicyRefused, match="differ in about 2 rows"):
            count(["another", *self.LIST[1:]], tmp_path)

    def test_the_other_side_is_protected_by_its_own_ledger(self, tmp_path: Path) -> None:
        """The shop loses one customer between two alignments: then its own ledger refuses, at either role."""

        def align(victims: list[str]) -> Any:
            return vfl.simulate(
                bank=lambda: vfl.align(table(self.LIST), on="id"),
                shop=lambda: vfl.align(table(victims), on="id"),
                ledger=tmp_path,
            )

        align(VICTIMS)
        with pytest.raises(PolicyRefused, match="differ in about 1 rows"):
            align(VICTIMS[:-1])

    @pytest.mark.parametrize(
        "call",
        [
            lambda names: vfl.align(table(names), on="id", learns="guest"),
            lambda names: vfl.intersection_sum(table(names, v=[1] * len(names)), on="id", owner="host"),
            lambda names: vfl.spine(table(names), on="id"),
        ],
    )
    def test_every_mode_asks_the_ledger(self, call: Callable[[Sequence[str]], Any], tmp_path: Path) -> None:
        def run(names: Sequence[str]) -> None:
            def shop() -> None:
                victims = table(VICTIMS, v=[1.0] * len(VICTIMS))
                kind = call.__code__.co_names
                if "intersection_sum" in kind:
                    vfl.intersection_sum(victims, on="id", owner="host", columns=["v"])
                elif "spine" in kind:
                    vfl.spine(victims, on="id")
                else:
                    vfl.align(victims, on="id", learns="guest")

            vfl.simulate(bank=lambda: call(names), shop=shop, ledger=tmp_path)

        run(self.LIST)
        with pytest.raises(PolicyRefused, match="differ in about 1 rows"):
            run(self.LIST[1:])

    def test_a_target_added_to_a_file(self, tmp_path: Path) -> None:
        """Files in partitions are remembered as one list."""

        def files(names: Sequence[str], number: int) -> Any:
            def act(party: str, held: Sequence[str]) -> Callable[[], Any]:
                out, work = (tmp_path / f"{party} {number} {name}" for name in ("out", "work"))
                return lambda: vfl.align_files([table(held)], "id", out, work=work, partitions=2)

            parties: Any = {"bank": act("bank", names), "shop": act("shop", VICTIMS)}
            return vfl.simulate(ledger=tmp_path, **parties)["bank"].rows

        assert files(self.LIST, 1) == 100
        assert files(self.LIST, 2) == 100
        with pytest.raises(PolicyRefused, match="differ in about 1 rows"):
            files([*self.LIST, "new"], 3)

    def test_several_identifiers_are_one_list(self, tmp_path: Path) -> None:
        """What is left for the second identifier depends on the peer; the ledger is asked about the whole."""
        bank, shop = (table(names, other=[f"o {name}" for name in names]) for names in (self.LIST, VICTIMS))

        def align(held: pl.DataFrame) -> int:
            fallback = [vfl.Key("other")]
            acts: Any = {
                "bank": lambda: vfl.align(held, on="id", fallback=fallback),
                "shop": lambda: vfl.align(shop, on="id", fallback=fallback),
            }
            return len(vfl.simulate(ledger=tmp_path, **acts)["bank"])

        assert [align(bank), align(bank)] == [100, 100]
        assert align(bank[30:]) == 70  # 30 rows fewer, of which none was left for the second identifier
        with pytest.raises(PolicyRefused, match="differ in about 2 rows"):  # the row had two identifiers
            align(bank[1:])

    def test_nobody_is_left_for_the_second_identifier(self, tmp_path: Path) -> None:
        same = table(VICTIMS, other=VICTIMS)
        for _ in range(2):
            acts: Any = {
                name: lambda: vfl.align(same, on="id", fallback=[vfl.Key("other")])
                for name in ("bank", "shop")
            }
            assert len(vfl.simulate(ledger=tmp_path, **acts)["bank"]) == 150

    def test_a_call_that_came_to_nothing_is_no_run(self, tmp_path: Path) -> None:
        """Nothing was learned if the parties called differently: the list may be put right."""
        with pytest.raises(ConfigMismatch, match="recipe"):
            vfl.simulate(
                bank=lambda: vfl.align(table(self.LIST), on="id"),
                shop=lambda: vfl.align(table(VICTIMS), on="id", normalise="casefold"),
                ledger=tmp_path,
            )
        assert count(self.LIST[1:], tmp_path) == 99

    def test_a_run_that_broke_off_counts(self, tmp_path: Path) -> None:
        few = [f"nobody {i}" for i in range(30)]
        with pytest.raises(AlignmentError, match="at least 10"):
            vfl.simulate(
                bank=lambda: vfl.align(table(few), on="id"),
                shop=lambda: vfl.align(table(VICTIMS), on="id"),
                minimum_intersection=10,
                ledger=tmp_path,
            )
        with pytest.raises(PolicyRefused, match="differ in about 1 rows"):
            count(few[1:], tmp_path)

    def test_queries_are_capped_from_call_to_call(self, tmp_path: Path) -> None:
        acts: Any = {
            "bank": lambda: vfl.intersection_size(table(self.LIST), on="id"),
            "shop": lambda: vfl.intersection_size(table(VICTIMS), on="id"),
        }
        for _ in range(2):
            vfl.simulate(ledger=tmp_path, policy=PolicyConfig(max_queries=2), **acts)
        with pytest.raises(PolicyRefused, match="2 comparisons with this peer in 30 days"):
            vfl.simulate(ledger=tmp_path, policy=PolicyConfig(max_queries=2), **acts)

    def test_an_approved_list_may_differ(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.sqlite")
        keys = [name.encode() for name in self.LIST]
        ledger.check("peer", "align", ledger.sketch(keys), PolicyConfig())
        later = ledger.sketch(keys[1:])
        with pytest.raises(PolicyRefused, match=later.digest):
            ledger.check("peer", "align", later, PolicyConfig())
        ledger.check("peer", "align", later, PolicyConfig(approved_lists=(later.digest,)))
        ledger.check("another peer", "align", ledger.sketch(keys[2:]), PolicyConfig())

    def test_queries_are_counted(self, tmp_path: Path) -> None:
        ledger, policy = Ledger(tmp_path / "l.sqlite"), PolicyConfig(max_queries=3)
        sketch = ledger.sketch([b"a"])
        for _ in range(3):
            ledger.check("peer", "align", sketch, policy)
        with pytest.raises(PolicyRefused, match="3 comparisons with this peer in 30 days"):
            Ledger(tmp_path / "l.sqlite").check("peer", "align", sketch, policy)

    def test_each_file_has_a_key_of_its_own_and_is_private(self, tmp_path: Path) -> None:
        one, two = Ledger(tmp_path / "a" / "l.sqlite"), Ledger(tmp_path / "b" / "l.sqlite")
        assert one.sketch([b"x"]).digest != two.sketch([b"x"]).digest
        assert (tmp_path / "a" / "l.sqlite").stat().st_mode & 0o077 == 0

    def test_order_does_not_matter_and_parts_add_up(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.sqlite")
        keys = [b"%d" % i for i in range(500)]
        whole = ledger.sketch(keys)
        assert ledger.sketch(keys[::-1]).digest == whole.digest
        assert (ledger.sketch(keys[:200]) + ledger.sketch(keys[200:])).digest == whole.digest


class TestEnumeration:
    """The bank brings every telephone number of a town and learns which belong to customers of the shop."""

    NUMBERS = tuple(f"0151 20{i:05d}" for i in range(0, 30_000, 7))
    CUSTOMERS = NUMBERS[11::35]

    def run(self, customers: Sequence[str], **options: Any) -> list[str]:
        result = vfl.simulate(
            bank=lambda: vfl.align(table(self.NUMBERS), on="id", normalise="phone:DE"),
            shop=lambda: vfl.align(table(customers), on="id", normalise="phone:DE"),
            **options,
        )
        return sorted(result["bank"]["id"].to_list())

    def test_control_all_customers_are_found(self) -> None:
        with pytest.warns(LeakageWarning, match="can be guessed: there are about"):
            found = self.run(self.CUSTOMERS, policy=PolicyConfig(max_domain_share=100.0))
        assert found == sorted(self.CUSTOMERS)

    @pytest.mark.parametrize("customers", [10, 30, 122])
    def test_a_list_of_guesses_is_refused(self, customers: int) -> None:
        with pytest.raises(
            PolicyRefused, match=r"bank brings up to 4,608 of about .* identifiers of this form"
        ):
            self.run(self.CUSTOMERS[:customers])

    def test_every_mode_refuses_it(self) -> None:
        guesses, victims = table(self.NUMBERS), table(self.CUSTOMERS, v=[1.0] * len(self.CUSTOMERS))
        options: dict[str, Any] = {"on": "id", "normalise": "phone:DE"}
        calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "size": (
                lambda: vfl.intersection_size(guesses, **options),
                lambda: vfl.intersection_size(victims, **options),
            ),
            "sum": (
                lambda: vfl.intersection_sum(guesses, owner="host", **options),
                lambda: vfl.intersection_sum(victims, owner="host", columns=["v"], **options),
            ),
            "enrich": (
                lambda: vfl.enrich(guesses, **options),
                lambda: vfl.enrich(victims, columns=["v"], **options),
            ),
            "spine": (lambda: vfl.spine(guesses, **options), lambda: vfl.spine(victims, **options)),
        }
        for bank, shop in calls.values():
            with pytest.raises(PolicyRefused, match="trying them out"):
                vfl.simulate(bank=bank, shop=shop, accept_leakage=["payload"])

    def test_a_long_list_of_other_identifiers_is_no_enumeration(self) -> None:
        """Customer numbers of one firm are no public numbering plan: few of them cannot show how many there are."""
        with pytest.warns(LeakageWarning, match="covers a good part"):
            result = vfl.simulate(
                bank=lambda: vfl.align(table([f"K{i:08d}" for i in range(5000)]), on="id"),
                shop=lambda: vfl.align(table([f"K{i:08d}" for i in range(100, 250)]), on="id"),
            )
        assert len(result["shop"]) == 150

    @pytest.mark.parametrize(
        "policy", [PolicyConfig(max_size_ratio=20), PolicyConfig(max_peer_keys=4000)], ids=["ratio", "most"]
    )
    def test_a_list_out_of_proportion_is_refused(self, policy: PolicyConfig) -> None:
        customers = [f"c{i * 7919}x" for i in range(60)]
        with pytest.raises(AlignmentError, match="enumerate"):
            vfl.simulate(
                bank=lambda: vfl.align(table([f"g{i * 7919}x" for i in range(4500)]), on="id"),
                shop=lambda: vfl.align(table(customers), on="id"),
                policy=policy,
            )

    def test_the_bounds_of_the_default_policy(self) -> None:
        assert allowed_peer_keys(20, PolicyConfig()) == 64 * 2000
        assert allowed_peer_keys(10_000, PolicyConfig(max_size_ratio=100)) == sets.bucket(10_000) * 100
        assert allowed_peer_keys(10**6, PolicyConfig()) == sets.bucket(10**7)
        assert allowed_peer_keys(10**6, PolicyConfig(max_peer_keys=5_000)) == sets.bucket(5_000)

    def test_the_report_says_that_identifiers_can_be_guessed(self) -> None:
        few = table(self.NUMBERS[:200])
        result = vfl.simulate(
            bank=lambda: vfl.align(few, on="id", normalise="phone:DE"),
            shop=lambda: vfl.align(few, on="id", normalise="phone:DE"),
        )
        assert "Identifiers of this form can be guessed" in result.sessions["shop"].facts.notes[0]

    @pytest.mark.parametrize(
        ("keys", "low", "high"),
        [
            ([b"%06d" % i for i in range(0, 999_999, 97)], 1e6, 1e6),
            ([b"+4915120%05d" % i for i in range(0, 99_999, 17)], 1e5, 1e5),
            ([b"person%d@example.org" % i for i in range(500)], 500, 1500),
            ([DeterministicRng(i).bytes(8).hex().encode() for i in range(300)], 1e18, 1e20),
        ],
    )
    def test_estimates_of_how_many_there_could_be(self, keys: list[bytes], low: float, high: float) -> None:
        assert low <= domain_size(keys) <= high


class TestEcho:
    """A host that sends back what it got: the guest would see each of its keys matched by itself."""

    def test_control_an_echoing_sender_computes_every_output(self) -> None:
        """The echo is an evaluation under the key 1, which is valid: only the comparison shows it."""
        rng, one = DeterministicRng(1), (1).to_bytes(32, "little")
        blinds, points = oprf.blind([b"a"], rng)
        outputs = oprf.finalize([b"a"], blinds, points)
        assert np.array_equal(outputs, oprf.evaluate_directly(one, [b"a"]))

    def test_is_refused(self) -> None:
        async def echo(guest: Channel) -> None:
            await guest.send(sets.SetSize(size=64))
            await guest.recv(sets.SetSize)
            await guest.send(exchange.Commitment(digest=bytes(32)))
            points = (await guest.recv(exchange.Blinded, elements=64)).points
            await guest.send(exchange.Evaluated(points=points))

        bank, shop = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
        with pytest.raises(MalformedMessage, match="back as they came"):
            run_local(guest=dh.guest(bank, [b"a", b"b"], DeterministicRng(2), 0, 1000), host=echo(shop))

    def test_is_refused_when_only_shuffled_or_cut(self) -> None:
        """Every single element that comes back as it went is refused, at any place."""
        rng = DeterministicRng(1)
        points = oprf.blind([b"%d" % i for i in range(64)], rng)[1]
        evaluated = oprf.evaluate(oprf.random_key(rng), points)

        async def nearly(guest: Channel) -> None:
            await guest.send(sets.SetSize(size=64))
            await guest.recv(sets.SetSize)
            await guest.send(exchange.Commitment(digest=bytes(32)))
            sent = (await guest.recv(exchange.Blinded, elements=64)).points
            mixed = evaluated.copy()
            mixed[5] = sent[9]
            await guest.send(exchange.Evaluated(points=mixed))

        bank, shop = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
        with pytest.raises(MalformedMessage, match="back as they came"):
            run_local(guest=dh.guest(bank, [b"a", b"b"], DeterministicRng(2), 0, 1000), host=nearly(shop))


class TestSmallResults:
    """A result over one or two customers is about them."""

    def test_control_and_default(self) -> None:
        bank, shop = table(["a", "b", TARGET]), table([TARGET, "x"], v=[123.5, 1.0])

        def run(minimum: int) -> Any:
            return vfl.simulate(
                bank=lambda: vfl.intersection_sum(bank, on="id", owner="host"),
                shop=lambda: vfl.intersection_sum(shop, on="id", owner="host", columns=["v"]),
                minimum_intersection=minimum,
            )

        assert run(1)["shop"]["v"] == 123.5
        with pytest.raises(AlignmentError, match="at least 10"):
            run(PolicyConfig().minimum_intersection)
