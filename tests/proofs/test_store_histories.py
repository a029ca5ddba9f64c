"""Proof: whatever happens to a document, and in whatever order, it holds what its callers were told."""

from __future__ import annotations

import errno
import logging

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from json_store import JsonStore
from model_core.errors import StoreError
from tests.simulated_disk import DOCUMENT, Fault, PowerCut, SimulatedDisk
from tests.store_records import NO_WAITING, Tally, TallyCodec, adding

which = st.integers(0, 1)


class Histories(RuleBasedStateMachine):
    """Two processes, a person and a failing disk, against a plain tuple of what must be there."""

    @initialize(links=st.booleans())
    def begin(self, links: bool) -> None:
        logging.disable(logging.CRITICAL)
        self.number = 0
        self.expected: tuple[str, ...] = ()
        self.disk = SimulatedDisk(links=links)
        self.processes = [self.process(), self.process()]

    def teardown(self) -> None:
        logging.disable(logging.NOTSET)

    def process(self) -> JsonStore[Tally]:
        return JsonStore(DOCUMENT, TallyCodec(), self.disk, NO_WAITING)

    def name(self) -> str:
        self.number += 1
        return str(self.number)

    @rule(which=which)
    def change(self, which: int) -> None:
        name = self.name()

        kept = self.processes[which].change(adding(name)).entries

        self.expected = (*self.expected, name)
        assert kept == self.expected

    @rule(which=which)
    def change_nothing(self, which: int) -> None:
        assert self.processes[which].change(lambda tally: tally).entries == self.expected

    @rule(which=which)
    def fail(self, which: int) -> None:
        with pytest.raises(ZeroDivisionError):
            self.processes[which].change(lambda _: 1 / 0)

    @rule(which=which)
    def start_again(self, which: int) -> None:
        self.processes[which] = self.process()

    @rule(swapped=st.booleans())
    def save_by_hand(self, swapped: bool) -> None:
        if DOCUMENT not in self.disk.names_seen:
            return
        self.expected = (*self.expected, self.name())
        content = TallyCodec().encode(Tally(self.expected))
        self.disk.sync_folder(DOCUMENT.parent)
        if swapped:
            self.disk.put(DOCUMENT, content)
        self.disk.edit(DOCUMENT, content)

    @rule(which=which)
    def damage(self, which: int) -> None:
        # Of the last change, only who saw it can tell.
        if DOCUMENT in self.disk.names_seen and self.processes[which].read().entries == self.expected:
            self.disk.edit(DOCUMENT, b"{")
            assert self.processes[which].change(lambda tally: tally).entries == self.expected

    @rule(which=which, calls=st.integers(1, 25), number=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def change_on_a_failing_disk(self, which: int, calls: int, number: int) -> None:
        self.disk.fault = Fault(len(self.disk.calls) + calls, "error", number)
        name = self.name()
        try:
            self.processes[which].change(adding(name))
        except StoreError:
            pass
        else:
            self.expected = (*self.expected, name)
        self.disk.fault = None

    @rule(
        which=which,
        calls=st.integers(1, 25),
        kind=st.sampled_from(["before", "torn", "after", "kill"]),
        survivor=st.integers(0, 10**6),
    )
    def change_and_lose_power(self, which: int, calls: int, kind: str, survivor: int) -> None:
        self.disk.fault = Fault(len(self.disk.calls) + calls, kind)
        name = self.name()
        asked = (*self.expected, name)
        try:
            self.processes[which].change(adding(name))
            self.expected = asked
        except PowerCut:
            pass
        self.disk.fault = None
        if kind != "kill":
            found = self.disk.survivors()
            self.disk = found[survivor % len(found)]
            self.processes = [self.process(), self.process()]
        else:
            self.processes[which] = self.process()
        entries = self.process().change(lambda tally: tally).entries
        assert entries in (self.expected, asked)
        self.expected = entries

    @invariant()
    def everybody_reads_what_must_be_there(self) -> None:
        for process in getattr(self, "processes", ()):
            assert process.read().entries == self.expected


class TestHistories(Histories.TestCase):
    settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestManyHistories(Histories.TestCase):
    settings = settings(max_examples=1000, stateful_step_count=40, deadline=None, phases=set(Phase) - {Phase.explain})
