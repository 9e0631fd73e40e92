"""The pool: every state meets every event, and only what the table allows happens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gpudisagg.server.pool import TRANSITIONS, Backoff, Event, Pool, PoolError, State

PATHS: dict[State, list[Event]] = {
    State.STARTING: [],
    State.WARM: [Event.READY],
    State.BUSY: [Event.READY, Event.ASSIGNED],
    State.DOUBTFUL: [Event.RETIRED],
    State.DEAD: [Event.EXITED],
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_a_state_and_an_event_give_what_the_table_says_or_an_error(state: State, event: Event) -> None:
    pool: Pool[str] = Pool()
    pool.add("w")
    for step in PATHS[state]:
        pool.apply("w", step)
    assert pool.state("w") is state
    expected = TRANSITIONS.get((state, event))
    if expected is None:
        with pytest.raises(PoolError, match=f"a {state.value} worker cannot be {event.value}"):
            pool.apply("w", event)
        assert pool.state("w") is state
    else:
        assert pool.apply("w", event) is expected
        assert pool.state("w") is expected


def test_every_worker_that_is_alive_can_exit_and_nothing_follows_death() -> None:
    assert {state for (state, event) in TRANSITIONS if event is Event.EXITED} == set(State) - {State.DEAD}
    assert not [state for (state, _) in TRANSITIONS if state is State.DEAD]


def test_a_doubtful_worker_never_becomes_warm_again() -> None:
    assert {after for (state, _), after in TRANSITIONS.items() if state is State.DOUBTFUL} == {
        State.DOUBTFUL,
        State.DEAD,
    }


def test_the_worker_used_last_is_taken_first() -> None:
    pool: Pool[str] = Pool()
    for name in "abc":
        pool.add(name)
        pool.apply(name, Event.READY)
    assert pool.take() == "c"
    assert pool.take() == "b"
    pool.apply("c", Event.ENDED)
    assert [pool.take(), pool.take(), pool.take()] == ["c", "a", None]


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens, take() gives a warm worker, each at most once until it is warm again."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int] = Pool()
        self.model: dict[int, State] = {}

    @rule()
    def add(self) -> None:
        number = len(self.model)
        self.pool.add(number)
        self.model[number] = State.STARTING

    @rule(pick=st.integers(0, 9), event=st.sampled_from(Event))
    def happen(self, pick: int, event: Event) -> None:
        state = self.model.get(pick, State.DEAD)
        try:
            self.model[pick] = self.pool.apply(pick, event)
        except PoolError:
            assert (state, event) not in TRANSITIONS

    @rule()
    def take(self) -> None:
        warm = {number for number, state in self.model.items() if state is State.WARM}
        taken = self.pool.take()
        if taken is None:
            assert not warm
        else:
            assert taken in warm
            self.model[taken] = State.BUSY

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        alive = [state for state in self.model.values() if state is not State.DEAD]
        assert self.pool.counts() == {s.value: alive.count(s) for s in State if s is not State.DEAD}


TestPoolMachine = PoolMachine.TestCase


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_death_is_replaced_at_once_and_then_twice_as_late_each_time() -> None:
    backoff = Backoff(Clock())
    waits = [backoff.failed() for _ in range(40)]
    assert waits[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert waits == sorted(waits)
    assert waits[-1] == Backoff.LONGEST


def test_a_served_session_and_a_quiet_time_are_forgiving() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == 0.0
    assert backoff.failed() > 0.0
    clock.now += Backoff.FORGIVEN_AFTER + Backoff.LONGEST + 1
    assert backoff.failed() == 0.0


@given(st.lists(st.floats(0, 10), min_size=2, max_size=60))
def test_however_deaths_come_they_cannot_make_a_storm(gaps: list[float]) -> None:
    """Over any run of deaths without a quiet minute, starts are at most as many as doubling waits allow."""
    clock = Clock()
    backoff = Backoff(clock)
    waited = 0.0
    for gap in gaps:
        wait = backoff.failed()
        waited += wait
        clock.now += wait + gap
    doublings = [min(Backoff.FIRST * 2.0**n, Backoff.LONGEST) for n in range(len(gaps) - 1)]
    assert waited == pytest.approx(sum(doublings))
