"""What clients may be told, what logs may say, and that plans can be repeated."""

import json
import random

import httpx
import pytest

from .checks import problem_in
from .clients import Round, is_json_error
from .faults import Kind, Plan, draw_plan


def plans(
    seed: int, *, can_fill: bool = True, can_trace: bool = True, must_kill: bool = False
) -> list[Plan]:
    return [
        draw_plan(
            random.Random(f"{seed} {number}"),
            can_fill=can_fill,
            can_trace=can_trace,
            must_kill=must_kill,
        )
        for number in range(200)
    ]


def test_plans_of_a_seed_are_the_same_again() -> None:
    assert plans(1) == plans(1)
    assert plans(1) != plans(2)


def test_plans_have_every_kind_of_fault_and_calm() -> None:
    drawn = plans(1)
    assert {event.kind for plan in drawn for event in plan.events} == set(Kind)
    assert any(plan.is_calm for plan in drawn)
    assert not any(plan.has(Kind.FILL) for plan in plans(1, can_fill=False))
    assert not any(plan.has(Kind.TRACE) for plan in plans(1, can_trace=False))
    assert all(plan.has(Kind.KILL) for plan in plans(1, must_kill=True))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 500, 502, 503, 504, 507])
def test_calm_round_may_refuse_nothing(status: int) -> None:
    assert not Round(1, 1).may_refuse(status, 0.0)


def test_faults_explain_their_own_refusals_only() -> None:
    statuses = (400, 404, 422, 500, 502, 503, 504, 507)

    def refusals(this: Round) -> set[int]:
        return {status for status in statuses if this.may_refuse(status, 10.0)}

    assert refusals(Round(1, 1, has_faults=True)) == {503}
    assert refusals(Round(1, 1, has_faults=True, calls_fail=True)) == {500, 503}
    assert refusals(Round(1, 1, has_faults=True, is_full=True)) == {503, 507}
    assert refusals(Round(1, 1, grace_until=11.0)) == {503}
    assert refusals(Round(1, 1, grace_until=9.0)) == set()


@pytest.mark.parametrize(
    ("kind", "body", "right"),
    [
        ("application/json", b'{"message": "no"}', True),
        ("application/json", b"<html></html>", False),
        ("application/json", b'["no"]', False),
        ("application/json", b"{}", False),
        ("text/html", b'{"message": "no"}', False),
    ],
)
def test_error_without_its_json_is_found(kind: str, body: bytes, right: bool) -> None:
    answer = httpx.Response(503, headers={"Content-Type": kind}, content=body)
    assert is_json_error(answer) is right


@pytest.mark.parametrize(
    ("line", "is_problem"),
    [
        ({"level": "error", "event": "crashed", "exception": "InjectedCrash: DiskWriter"}, False),
        (
            {"level": "error", "event": "crashed", "exception": "ProcessDied: it is gone"},
            False,
        ),
        ({"level": "error", "event": "storage_failed"}, False),
        ({"level": "error", "event": "request_crashed", "exception": "KeyError: 1"}, True),
        ({"level": "critical", "event": "gave_up"}, True),
    ],
)
def test_unexpected_lines_in_the_log_are_found(line: dict[str, str], is_problem: bool) -> None:
    assert (problem_in(json.dumps(line)) is not None) is is_problem


def test_trace_that_is_no_line_of_json_is_found() -> None:
    assert problem_in("Traceback (most recent call last):\n") is not None
