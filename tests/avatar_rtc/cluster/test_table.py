"""Whom a front door asks for a seat."""

from __future__ import annotations

from dataclasses import replace

from avatar_rtc.cluster.table import FRESH_S, NodeState, NodeTable
from tests.support.clock import SimulatedClock

A, B, C = (NodeState(name, f"http://{name}", "key", seats=4, free=4, rtf_p95=0.3) for name in "abc")


def asked(table: NodeTable, held_at: str | None = None) -> str:
    return "".join(state.node for state in table.to_ask(held_at))


def table_of(*states: NodeState) -> NodeTable:
    table = NodeTable()
    for state in states:
        table.heard(state)
    return table


def test_free_seats_come_first_by_their_share_and_then_speed_and_last_where_one_waits_best() -> None:
    table = table_of(replace(A, seats=8, free=2), replace(B, free=2, rtf_p95=0.2), replace(C, free=2))
    assert asked(table) == "bcab"
    table = table_of(replace(A, free=0, waiting=3), replace(B, free=1), replace(C, free=0, waiting=2))
    assert asked(table) == "bc"
    assert asked(table, held_at="a") == "ba"
    assert asked(table, held_at="gone") == "bc"
    assert asked(table_of(replace(A, draining=True), B)) == "bb"
    assert asked(NodeTable()) == ""


def test_what_is_promised_counts_until_a_node_is_heard_of_again() -> None:
    table = table_of(replace(A, seats=2, free=2), replace(B, seats=2, free=2))
    order = []
    for _ in range(4):
        order.append(asked(table)[0])
        table.promise(order[-1])
    assert order == ["a", "b", "a", "b"]
    assert len(asked(table)) == 1  # nobody has one, as far as this door knows: the last resort is asked all the same
    table.heard(replace(A, seats=2, free=1))
    assert asked(table) == "ab"


def test_a_silent_node_is_not_asked_and_found_until_it_is_known_to_be_gone() -> None:
    clock = SimulatedClock()
    table = NodeTable(clock.now)
    table.heard(A)
    clock.time_s += FRESH_S / 2
    table.heard(B)
    clock.time_s += FRESH_S * 0.6
    assert (asked(table)[0], table.find("a"), [state.node for state in table.fresh]) == ("b", A, ["b"])
    table.gone("a")
    assert table.find("a") is None
    table.heard(replace(C, address=""))
    assert table.find("c") is None, "it does not serve yet"


def test_so_many_nodes_are_wanted_as_have_seats_for_those_who_wait() -> None:
    assert table_of(A, B).num_wanted() == 2
    assert table_of(replace(A, waiting=1), B).num_wanted() == 3
    assert table_of(replace(A, waiting=3), replace(B, waiting=6)).num_wanted() == 5
