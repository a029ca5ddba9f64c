"""Tickets: once, soon, and not to be guessed."""

from __future__ import annotations

import pytest

from api_model_tickets import MOST_TICKETS, TICKET_S, Tickets


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tickets(clock):
    return Tickets(clock)


def test_a_ticket_is_good_once(tickets):
    ticket = tickets.issue()

    assert [tickets.redeem(ticket), tickets.redeem(ticket)] == [True, False]


def test_a_ticket_is_good_for_a_minute(tickets, clock):
    early, late = tickets.issue(), tickets.issue()

    clock.now_s += TICKET_S - 0.1
    assert tickets.redeem(early)
    clock.now_s += 0.1
    assert not tickets.redeem(late)


@pytest.mark.parametrize("guess", ["", " ", "x" * 10_000, "日本", "\udc80", "\0"])
def test_what_was_never_given_is_no_ticket(tickets, guess):
    ticket = tickets.issue()

    assert not tickets.redeem(guess)
    assert tickets.redeem(ticket)


def test_using_one_leaves_the_others_good(tickets):
    given = [tickets.issue() for _ in range(3)]

    tickets.redeem(given[1])

    assert [tickets.redeem(ticket) for ticket in given] == [True, False, True]


def test_the_oldest_goes_when_too_many_are_asked_for(tickets):
    first, second = tickets.issue(), tickets.issue()

    for _ in range(MOST_TICKETS - 1):
        tickets.issue()

    assert [tickets.redeem(first), tickets.redeem(second)] == [False, True]
