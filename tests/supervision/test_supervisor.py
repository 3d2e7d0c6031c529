"""Order, restarts, intensity, and what a supervisor tells of its children."""

import gc
from weakref import ref

import pytest
import trio
import trio.testing

from cache_actors.supervision import (
    ActorCrashed,
    ActorStopped,
    ChildSpec,
    RestartIntensityError,
    Started,
    State,
    Supervisor,
    supervisor_child,
)

from .small_actors import Ask, Boom, Desk, Hold, Plain, Root, Say, Start

# Starting.


async def test_children_start_in_order_each_when_the_one_before_is_ready(start: Start) -> None:
    desk, journal = Desk("first"), list[str]()
    desk.init_gate = trio.Event()
    root = await start(desk.child, Plain("second", journal).child, Plain("third", journal).child)
    assert journal == []
    assert root.child("first").state is State.STARTING
    assert root.child("second").state is State.STOPPED
    assert not root.started.is_set()
    desk.init_gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert journal == ["second started", "third started"]
    assert root.started.is_set()
    assert root.supervisor.status().is_healthy()


async def test_init_that_raises_is_retried_before_the_next_child_starts(start: Start) -> None:
    desk, journal = Desk("first"), list[str]()
    desk.init_errors = [OSError(), OSError()]
    root = await start(desk.child, Plain("second", journal).child)
    assert desk.journal == ["init", "init", "init"]
    assert journal == ["second started"]
    assert root.child("first").restarts == 2
    assert root.started.is_set()


async def test_init_that_keeps_raising_makes_the_supervisor_give_up(start: Start) -> None:
    desk, journal = Desk("second"), list[str]()
    desk.init_errors = [OSError() for _ in range(10)]
    root = await start(
        Plain("first", journal).child, desk.child, Plain("third", journal).child, max_restarts=3
    )
    assert isinstance(root.error, RestartIntensityError)
    assert desk.journal == ["init"] * 4
    assert journal == ["first started", "first cancelled"]
    assert not root.started.is_set()


async def test_stop_requested_during_start_up_ends_it(start: Start) -> None:
    desk, journal = Desk("second", shutdown=3), list[str]()
    desk.init_gate = trio.Event()
    root = await start(Plain("first", journal).child, desk.child, Plain("third", journal).child)
    await root.stop()
    assert journal == ["first started", "first stopped"]
    assert not root.started.is_set()
    assert root.error is None
    assert trio.current_time() == pytest.approx(3)  # the second child's allowance
    with pytest.raises(ActorStopped):
        await desk.address.call(Say("too late"))


# Stopping.


async def test_children_stop_in_reverse_order_one_at_a_time(start: Start) -> None:
    journal: list[str] = []
    names = ("first", "second", "third")
    root = await start(*(Plain(name, journal, shutdown=9, wind_down=5).child for name in names))
    journal.clear()
    await root.begin_stop()
    states = [child.state for child in root.supervisor.status().children]
    assert states == [State.RUNNING, State.RUNNING, State.STOPPING]
    assert root.supervisor.status().state is State.STOPPING
    assert not root.supervisor.status().is_healthy()
    await root.stop()
    assert journal == ["third stopped", "second stopped", "first stopped"]
    assert trio.current_time() == pytest.approx(15)
    assert [c.state for c in root.supervisor.status().children] == [State.STOPPED] * 3
    assert root.supervisor.status().state is State.STOPPED
    assert root.error is None


async def test_each_child_has_its_own_allowance_and_is_then_cancelled(start: Start) -> None:
    journal: list[str] = []
    root = await start(
        Plain("patient", journal, shutdown=10, wind_down=5).child,
        Plain("hurried", journal, shutdown=2, wind_down=5).child,
    )
    journal.clear()
    await root.stop()
    assert journal == ["hurried cancelled", "patient stopped"]
    assert trio.current_time() == pytest.approx(2 + 5)


async def test_child_that_crashes_while_being_stopped_is_not_restarted(start: Start) -> None:
    journal: list[str] = []
    root = await start(
        Plain("first", journal).child, Plain("second", journal, stop_error=ValueError()).child
    )
    await root.stop()
    assert journal == ["first started", "second started", "second stopped", "first stopped"]
    assert root.child("second").restarts == 0
    assert root.error is None


# Restarting.


async def test_crashed_child_is_restarted_alone(start: Start) -> None:
    journal: list[str] = []
    children = [Plain(name, journal) for name in ("first", "second", "third")]
    root = await start(*(child.child for child in children))
    journal.clear()
    await children[1].end(ValueError())
    assert journal == ["second started"]
    assert [c.restarts for c in root.supervisor.status().children] == [0, 1, 0]
    assert root.logged == [("child_crashed", "second")]


async def test_incarnation_that_has_crashed_is_forgotten(start: Start) -> None:
    class Crash(Exception):
        pass

    child = Plain("child", [])
    root = await start(child.child)
    crash = Crash()
    remembered = ref(crash)
    await child.end(crash)
    del crash
    gc.collect()
    assert root.child("child").last_error == "Crash"
    assert remembered() is None


async def test_child_that_returns_by_itself_has_crashed(start: Start) -> None:
    journal: list[str] = []
    child = Plain("child", journal)
    root = await start(child.child)
    await child.end(None)
    assert journal == ["child started"] * 2
    assert root.child("child").restarts == 1
    assert root.child("child").last_error == "RuntimeError"


async def test_crash_beyond_the_intensity_makes_the_supervisor_give_up(start: Start) -> None:
    journal: list[str] = []
    children = [Plain(name, journal, wind_down=9) for name in ("first", "second", "third")]
    root = await start(*(child.child for child in children), max_restarts=2)
    await children[1].end(ValueError())
    await children[0].end(ValueError())  # whose crash it is does not matter
    assert not root.ended.is_set()
    journal.clear()
    await children[1].end(ValueError())
    assert isinstance(root.error, RestartIntensityError)
    assert "root" in str(root.error)
    assert journal == ["third cancelled", "first cancelled"]
    assert root.supervisor.status().state is State.STOPPED


async def test_old_crashes_are_forgotten(start: Start) -> None:
    child = Plain("child", [])
    root = await start(child.child, max_restarts=2, max_seconds=10)
    for _ in range(10):
        await child.end(ValueError())
        await trio.sleep(6)
    assert root.child("child").restarts == 10
    await child.end(ValueError())
    await child.end(ValueError())
    assert isinstance(root.error, RestartIntensityError)


# Supervisors below supervisors.


def inner(*children: ChildSpec, max_restarts: int = 0) -> Supervisor:
    return Supervisor("inner", children, max_restarts=max_restarts, max_seconds=5)


async def test_supervisor_that_gives_up_is_one_crash_of_a_child(start: Start) -> None:
    journal: list[str] = []
    below, beside = Plain("below", journal), Plain("beside", journal)
    root = await start(
        supervisor_child(inner(below.child, max_restarts=1), shutdown=1), beside.child
    )
    journal.clear()
    await below.end(ValueError())
    assert root.child("inner").restarts == 0
    await below.end(ValueError())
    assert journal == ["below started", "below started"]
    assert root.child("inner").restarts == 1
    assert root.child("inner").last_error == "RestartIntensityError"
    await below.end(ValueError())  # the new run starts with no crashes on its record
    assert root.child("inner").restarts == 1
    assert root.supervisor.status().is_healthy()


async def test_queued_messages_survive_a_supervisor_that_gives_up(start: Start, ask: Ask) -> None:
    one, other = Desk("one"), Desk("other")
    root = await start(supervisor_child(inner(one.child, other.child), shutdown=1))
    held = await ask(one.address, Hold("held"))
    crashed = await ask(one.address, Boom())
    queued = [await ask(one.address, Say(text)) for text in "ab"]
    in_hand_beside = await ask(other.address, Hold("held too"))
    queued_beside = await ask(other.address, Say("c"))
    one.gate.set()
    assert await held.outcome() == "held"
    assert isinstance(await crashed.outcome(), ActorCrashed)
    assert isinstance(await in_hand_beside.outcome(), ActorCrashed)
    assert [await q.outcome() for q in (*queued, queued_beside)] == ["a", "b", "c"]
    assert root.child("inner").restarts == 1


async def test_restarted_supervisor_starts_and_stops_its_children_in_order(
    start: Start, ask: Ask
) -> None:
    desk, journal = Desk("first"), list[str]()
    tree = inner(desk.child, Plain("second", journal, wind_down=0.5).child)
    root = await start(supervisor_child(tree, shutdown=2))
    desk.init_gate = trio.Event()
    journal.clear()
    await ask(desk.address, Boom())
    assert root.child("inner").restarts == 1
    assert journal == ["second cancelled"]  # and is not started before the first is ready
    desk.init_gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert journal == ["second cancelled", "second started"]
    await root.begin_stop()
    assert "terminate" not in desk.journal
    await root.stop()
    assert journal[-1] == "second stopped"
    assert desk.journal[-1] == "terminate"


async def test_callers_below_a_supervisor_cancelled_at_the_stop_are_answered(
    start: Start, ask: Ask
) -> None:
    desk = Desk("below", shutdown=60)
    root = await start(supervisor_child(inner(desk.child), shutdown=1))
    held = await ask(desk.address, Hold("never"))
    queued = await ask(desk.address, Say("queued"))
    await root.stop()
    assert held.is_done()
    assert isinstance(await queued.outcome(), ActorStopped)


async def test_callers_of_a_root_that_gave_up_are_answered_when_it_is_abandoned(
    start: Start, ask: Ask
) -> None:
    above, below = Desk("above"), Desk("below")
    root = await start(
        above.child, supervisor_child(inner(below.child), shutdown=1), max_restarts=0
    )
    await ask(above.address, Hold("held"))
    asked = [await ask(above.address, Say("queued"))]
    await ask(below.address, Hold("held"))
    crashed = await ask(below.address, Boom())
    asked.append(await ask(below.address, Say("queued")))
    below.gate.set()
    await root.ended.wait()
    assert isinstance(await crashed.outcome(), ActorCrashed)
    assert isinstance(root.error, RestartIntensityError)
    root.supervisor.abandon()
    assert [type(await a.outcome()) for a in asked] == [ActorStopped] * 2


# Status.


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        ExceptionGroup("one", [KeyError("k")]),
        ExceptionGroup("deep", [ExceptionGroup("deeper", [KeyError("k")])]),
    ],
)
async def test_last_error_is_the_class_of_the_real_cause(start: Start, error: Exception) -> None:
    child = Plain("child", [])
    root = await start(child.child)
    await child.end(error)
    assert root.child("child").last_error == "KeyError"
    assert root.child("child").state is State.RUNNING


async def test_restarted_child_is_starting_until_it_is_ready(desk: Desk, ask: Ask) -> None:
    """Its uptime is that of the incarnation."""
    await trio.sleep(5)
    assert desk.root.child("clerk").uptime == pytest.approx(5)
    desk.init_gate = trio.Event()
    await ask(desk.address, Boom())
    clerk = desk.root.child("clerk")
    assert (clerk.state, clerk.uptime) == (State.STARTING, None)
    assert not desk.root.supervisor.status().is_healthy()
    desk.init_gate.set()
    await trio.sleep(2)
    assert desk.root.child("clerk").uptime == pytest.approx(2)
    assert desk.root.supervisor.status().is_healthy()


async def test_status_tells_what_waits_and_for_how_long(desk: Desk, ask: Ask) -> None:
    assert (desk.root.child("clerk").depth, desk.root.child("clerk").oldest) == (0, None)
    await ask(desk.address, Hold("in hand"))
    await ask(desk.address, Say("a"))
    await trio.sleep(2)
    await ask(desk.address, Say("b"))
    assert desk.root.child("clerk").depth == 2
    assert desk.root.child("clerk").oldest == pytest.approx(2)


async def test_stuck_actor_cannot_hide_it(start: Start, ask: Ask) -> None:
    desk = Desk("below")
    root = await start(supervisor_child(inner(desk.child), shutdown=1))
    await ask(desk.address, Hold("in hand"))
    await trio.sleep(60)
    assert root.supervisor.status().is_healthy()  # busy, but nobody else waits
    await ask(desk.address, Say("waits"))
    await trio.sleep(9)
    assert root.supervisor.status().is_healthy()
    await trio.sleep(2)
    assert not root.supervisor.status().is_healthy()
    assert root.child("inner").children[0].stuck
    desk.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert root.supervisor.status().is_healthy()


async def test_leaked_cancelled_beside_an_error_is_a_crash_of_that_child(start: Start) -> None:
    lives: list[int] = []

    async def run(_stop: trio.Event, started: Started) -> None:
        started()
        lives.append(1)
        if len(lives) > 1:
            await trio.sleep_forever()
        leaked: list[BaseException] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                leaked.append(cancelled)
        raise BaseExceptionGroup("mixed", [*leaked, KeyError("k")])

    root = await start(ChildSpec("child", run, 1.0))
    assert root.error is None
    assert root.child("child").last_error == "KeyError"
    assert root.child("child").restarts == 1


async def test_child_that_crashes_while_others_stop_still_serves(start: Start, ask: Ask) -> None:
    desk = Desk("first")
    root = await start(desk.child, Plain("second", [], shutdown=10, wind_down=5).child)
    await root.begin_stop()
    await ask(desk.address, Boom())
    served = await ask(desk.address, Say("x"))
    assert served.is_done()


async def test_child_that_crashes_before_it_waits_lets_others_run(nursery: trio.Nursery) -> None:
    lives = 0

    async def run(_stop: trio.Event, _started: Started) -> None:
        nonlocal lives
        lives += 1
        if lives <= 1000:
            raise KeyError
        await trio.sleep_forever()

    root = Root(ChildSpec("child", run, shutdown=1), max_restarts=2000, max_seconds=3600)
    nursery.start_soon(root.run)
    while not lives:
        await trio.lowlevel.checkpoint()
    assert lives < 1000
    nursery.cancel_scope.cancel()
