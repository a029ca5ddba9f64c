"""What a watcher gets, how little it costs, and that it is never in the way."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from event_hub import EventHub


def test_a_watcher_gets_the_newest_state_of_everything_once():
    hub = EventHub()
    hub.publish("a", "download", {"percent": 1})
    hub.publish("b", "download", {"percent": 5})
    hub.publish("a", "download", {"percent": 2})

    events = hub.since(0)

    assert [(event.data["percent"], event.id) for event in events] == [(5, 2), (2, 3)]
    assert hub.since(events[-1].id) == []


def test_a_slow_watcher_skips_what_came_in_between():
    hub = EventHub()
    seen = hub.publish("a", "download", {"percent": 0}).id
    for percent in range(1, 1000):
        hub.publish("a", "download", {"percent": percent})

    assert [event.data["percent"] for event in hub.since(seen)] == [999]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_whoever_asks_again_and_again_ends_with_the_newest_state_of_each(steps):
    hub, seen, told = EventHub(), 0, {}
    newest = {}
    for number, (key, looks) in enumerate(steps):
        hub.publish(key, "download", {"key": key, "number": number})
        newest[key] = number
        if looks:
            for event in hub.since(seen):
                assert event.id > seen
                told[event.data["key"]], seen = event.data["number"], event.id
    for event in hub.since(seen):
        told[event.data["key"]] = event.data["number"]

    assert told == newest


def test_a_watcher_that_waits_is_woken_by_the_next_event():
    hub, got = EventHub(), []
    waiting = threading.Event()

    def watch() -> None:
        waiting.set()
        got.extend(hub.since(0, timeout_s=10))

    thread = threading.Thread(target=watch)
    thread.start()
    waiting.wait(5)
    hub.publish("a", "download", {"percent": 1})
    thread.join(5)

    assert [event.data for event in got] == [{"percent": 1}]


def test_a_watcher_waits_no_longer_than_it_wanted():
    started = time.monotonic()

    assert EventHub().since(0, timeout_s=0.05) == []
    assert time.monotonic() - started >= 0.05


def test_what_is_forgotten_wakes_nobody_and_is_not_told():
    hub = EventHub()
    hub.publish("a", "download", {})
    hub.forget("a")

    assert hub.since(0, timeout_s=0.01) == []


def test_the_end_sends_every_watcher_home_at_once():
    hub = EventHub()
    threads = [threading.Thread(target=hub.since, args=(0, 60)) for _ in range(20)]
    for thread in threads:
        thread.start()

    hub.close()

    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert hub.closed


def test_the_text_of_an_event_is_made_once_for_all_watchers():
    hub = EventHub()
    hub.publish("a", "download", {"download": {"percent": 1}})
    (one,), (other,) = hub.since(0), hub.since(0)

    assert one.text is other.text
    assert one.text == b'{"id":1,"type":"download","data":{"download":{"percent":1}}}'
