"""How long a decision lives, what an outage of Tuist changes, and what is kept of tokens."""

import gc
import hmac
import math
import types
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cache_actors.access.grants import Access, Action, TuistReply
from cache_actors.access.tokens import TokenMemory, TokenState
from cache_actors.access.tuist import CONNECTIONS, TIMEOUT, TuistApi
from cache_actors.actors import auth_cache
from cache_actors.actors.auth_cache import (
    ATTEMPT_INTERVAL,
    MAX_QUESTIONS,
    AccessUnknown,
    AuthCache,
    AuthCacheClient,
    Decide,
    Decision,
    ReplyReceived,
    TooManyQuestions,
)
from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.storage.layout import Project, parse_project
from cache_actors.supervision import ActorCrashed, ActorStopped, Mailbox, MailboxFull
from tests.supervision.small_actors import Task
from tests.support.metrics import Scrape

from .auth import DOWN, FORBIDDEN, SECRET, UNAUTHORIZED, Auth, FakeTuist, granting
from .helpers import OTHER_PROJECT, PROJECT, Run

TOKEN = "Bearer token-of-a-developer"
OTHER_TOKEN = "Bearer token-of-another-developer"


@pytest.fixture
async def auth(
    run_tree: Run,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Auth:
    """A running auth cache; at the Tuist server `TOKEN` sees `PROJECT` and nothing else.

    A question waits for its turn as long as it takes, unless a test says otherwise.
    """
    monkeypatch.setattr(auth_cache, "MAX_WAIT_SECONDS", math.inf)
    auth = Auth(nursery, FakeTuist())
    auth.tuist.answers[TOKEN] = granting(str(PROJECT))
    auth.root = await run_tree(auth.child)
    return auth


async def unknown(auth: Auth, authorization: str, project: Project = PROJECT) -> AccessUnknown:
    """The trouble that a question meets."""
    with pytest.raises(AccessUnknown) as caught:
        await auth.decide(authorization, project)
    return caught.value


def granted_for(decision: Decision) -> float:
    """How many seconds a yes still lives."""
    assert decision.access is Access.GRANTED
    return decision.lifetime


async def sleep_until(seconds: float) -> None:
    await trio.sleep(seconds - trio.current_time())


# Decisions.


async def test_a_yes_and_the_two_ways_of_a_no(auth: Auth) -> None:
    auth.tuist.answers["Bearer forbidden"] = FORBIDDEN
    auth.tuist.answers["Bearer nothing"] = granting()
    assert await auth.access(TOKEN) is Access.GRANTED
    assert await auth.access(TOKEN, OTHER_PROJECT) is Access.FORBIDDEN
    assert await auth.access("Bearer forbidden") is Access.FORBIDDEN
    assert await auth.access("Bearer nothing") is Access.FORBIDDEN
    assert await auth.access("Bearer unknown") is Access.UNAUTHORIZED


async def test_names_are_compared_whole_and_without_their_case(auth: Auth) -> None:
    for account, name in [("Acme", "APP"), ("acme", "app"), ("ACME", "App")]:
        assert await auth.access(TOKEN, parse_project(account, name)) is Access.GRANTED
    for account, name in [("acme", "ap"), ("acm", "app"), ("acme", "app2"), ("app", "acme")]:
        assert await auth.access(TOKEN, parse_project(account, name)) is Access.FORBIDDEN
    assert auth.tuist.asked(TOKEN) == 1


async def test_token_that_may_only_read_does_not_write(auth: Auth) -> None:
    read_only = TuistReply(Access.GRANTED, read_only=frozenset({str(PROJECT)}))
    auth.tuist.answers["Bearer reader"] = read_only
    for action in (Action.WRITE, Action.READ, Action.WRITE):
        access = await auth.access("Bearer reader", action=action)
        assert access is (Access.GRANTED if action is Action.READ else Access.FORBIDDEN)
    assert await auth.access(TOKEN, action=Action.WRITE) is Access.GRANTED
    assert await auth.access(TOKEN, action=Action.READ) is Access.GRANTED
    assert len(auth.tuist.questions) == 2  # one for each token
    auth.tuist.trouble = DOWN
    await sleep_until(601)
    assert await auth.access("Bearer reader", action=Action.READ) is Access.GRANTED
    with pytest.raises(AccessUnknown):
        await auth.access("Bearer reader", action=Action.WRITE)


async def test_account_over_its_plan_is_told_in_tuists_words(auth: Auth) -> None:
    unpaid = TuistReply(Access.GRANTED, unpaid=frozenset({str(PROJECT)}), message="Upgrade")
    await auth.decide(TOKEN)
    auth.tuist.answers[OTHER_TOKEN] = unpaid
    forbidden = await auth.decide(OTHER_TOKEN, OTHER_PROJECT)
    assert forbidden == Decision(Access.FORBIDDEN, 3)  # those words are about something else
    for answer in (unpaid, TuistReply(Access.PAYMENT_REQUIRED, message="Upgrade")):
        auth.tuist.answers[TOKEN] = answer
        await trio.sleep(600)
        for action in Action:
            decision = await auth.decide(TOKEN, action=action)
            assert decision == Decision(Access.PAYMENT_REQUIRED, 3, "Upgrade")
        auth.tuist.trouble = DOWN
        await trio.sleep(4)
        await unknown(auth, TOKEN)  # the old yes does not come back
        auth.tuist.trouble = None


# Tokens that speak for themselves.


def granted(
    *projects: str, read_only: str = "", whole: bool = True, lifetime: float = 1000
) -> TuistReply:
    """What a token says of itself."""
    return TuistReply(
        Access.GRANTED,
        frozenset(projects),
        frozenset({read_only} - {""}),
        is_whole=whole,
        lifetime=lifetime,
    )


async def test_grants_of_a_token_are_asked_of_nobody_even_while_tuist_is_down(auth: Auth) -> None:
    auth.tuist.trouble = DOWN
    auth.tuist.words[TOKEN] = granted(read_only=str(PROJECT))
    for _ in range(2):
        assert await auth.decide(TOKEN) == Decision(Access.GRANTED, 600)
        assert await auth.decide(TOKEN, action=Action.WRITE) == Decision(Access.FORBIDDEN, 3)
        assert await auth.decide(TOKEN, OTHER_PROJECT) == Decision(Access.FORBIDDEN, 3)
    assert auth.tuist.questions == []


async def test_project_that_a_token_does_not_list_is_asked_about(auth: Auth) -> None:
    auth.tuist.words[TOKEN] = granted(str(OTHER_PROJECT), whole=False)
    assert await auth.access(TOKEN, OTHER_PROJECT) is Access.GRANTED
    assert auth.tuist.questions == []
    assert await auth.access(TOKEN) is Access.GRANTED
    assert await auth.access(TOKEN, OTHER_PROJECT) is Access.GRANTED  # Tuist has not named it
    assert await auth.access(TOKEN, parse_project("acme", "third")) is Access.FORBIDDEN
    assert auth.tuist.asked(TOKEN) == 1


@pytest.mark.parametrize("refusal", [UNAUTHORIZED, FORBIDDEN])
async def test_token_that_tuist_has_refused_says_nothing_for_itself_any_more(
    auth: Auth, refusal: TuistReply
) -> None:
    auth.tuist.words[TOKEN] = granted(str(OTHER_PROJECT), whole=False)
    assert await auth.access(TOKEN, OTHER_PROJECT) is Access.GRANTED
    auth.tuist.answers[TOKEN] = refusal
    assert await auth.access(TOKEN) is refusal.access
    for age in (0, 2, 10, 599, 601, 5000):
        await sleep_until(age)
        assert await auth.access(TOKEN, OTHER_PROJECT) is refusal.access


async def test_token_does_not_outlive_its_end_by_its_own_word(auth: Auth) -> None:
    """Nor in an outage of Tuist: an expired one is asked about, and then unknown."""
    auth.tuist.words[TOKEN] = granted(str(PROJECT), read_only=str(OTHER_PROJECT), lifetime=50)
    for age in (0, 10, 49.5):
        auth.tuist.words[TOKEN] = replace(auth.tuist.words[TOKEN], lifetime=50 - age)
        await sleep_until(age)
        assert (await auth.decide(TOKEN)).lifetime == pytest.approx(50 - age)
        refusal = await auth.decide(TOKEN, OTHER_PROJECT, Action.WRITE)
        assert refusal.lifetime == pytest.approx(min(3, 50 - age))
    del auth.tuist.words[TOKEN]
    auth.tuist.trouble = DOWN
    await sleep_until(50)
    await unknown(auth, TOKEN)
    auth.tuist.trouble, auth.tuist.answers[TOKEN] = None, UNAUTHORIZED
    await sleep_until(54)
    assert await auth.access(TOKEN) is Access.UNAUTHORIZED


async def test_token_does_not_outlive_its_end_by_tuists_answer(auth: Auth) -> None:
    auth.tuist.answers[TOKEN] = replace(granting(str(PROJECT)), lifetime=50.0)
    for age in (0, 10, 49.5):
        await sleep_until(age)
        assert granted_for(await auth.decide(TOKEN)) == pytest.approx(50 - age)
    assert auth.tuist.asked(TOKEN) == 1
    auth.tuist.trouble = DOWN
    await sleep_until(50)
    await unknown(auth, TOKEN)  # there is no stale yes for it


async def test_word_of_a_token_is_read_again_after_a_while(auth: Auth) -> None:
    auth.tuist.words[TOKEN] = granted(str(PROJECT), lifetime=1e300)
    assert (await auth.decide(TOKEN)).lifetime == 600
    auth.tuist.words[TOKEN] = granted(read_only=str(PROJECT))
    await sleep_until(599)
    assert await auth.access(TOKEN, action=Action.WRITE) is Access.GRANTED
    await sleep_until(600)
    assert await auth.access(TOKEN, action=Action.WRITE) is Access.FORBIDDEN


async def test_cache_token_that_cannot_be_verified_is_told_once_and_counted(auth: Auth) -> None:
    auth.tuist.answers = {f"token {n}": TuistReply(Access.UNVERIFIABLE) for n in range(3)}
    for token in auth.tuist.answers:
        assert await auth.access(token) is Access.UNVERIFIABLE
    (line,) = auth.log.of("cache_token_unverified")
    assert "TUIST_TOKEN_SECRET" in line["reason"]
    assert "TUIST_CLIENT_ID" in line["reason"]
    decisions = Scrape.of(auth.metrics).value(
        "cache_actors_decisions_total", outcome="unverifiable", source="tuist"
    )
    assert decisions == 3


# Single flight.


async def test_readers_and_writers_with_a_new_token_ask_tuist_once(auth: Auth) -> None:
    auth.tuist.gate = trio.Event()
    asked = [auth.start(auth.decide(TOKEN, action=action)) for action in [*Action] * 10]
    await trio.testing.wait_all_tasks_blocked()
    auth.tuist.gate.set()
    assert {(await task.result()).access for task in asked} == {Access.GRANTED}
    assert auth.tuist.asked(TOKEN) == 1


async def test_hundred_questions_about_a_new_token_ask_tuist_once(auth: Auth) -> None:
    """Those who wait for the one answer are each told of their project."""
    auth.tuist.gate = trio.Event()
    asked = [await auth.ask(TOKEN, project) for project in [PROJECT, OTHER_PROJECT] * 50]
    assert not any(task.is_done() for task in asked)
    auth.tuist.gate.set()
    told = [(await task.result()).access for task in asked]
    assert told == [Access.GRANTED, Access.FORBIDDEN] * 50
    assert len(auth.tuist.questions) == 1


async def test_caller_who_leaves_takes_the_answer_from_nobody(auth: Auth) -> None:
    auth.tuist.gate = trio.Event()
    first, second = await auth.ask(TOKEN), await auth.ask(TOKEN)
    await first.leave()
    auth.tuist.gate.set()
    assert (await second.result()).access is Access.GRANTED
    assert await auth.access(TOKEN) is Access.GRANTED
    assert len(auth.tuist.questions) == 1


# How long they live.


@pytest.mark.parametrize(
    ("answer", "project", "life"),
    [
        (granting(str(PROJECT)), PROJECT, 600),
        (granting(str(PROJECT)), OTHER_PROJECT, 3),
        (UNAUTHORIZED, PROJECT, 3),
        (FORBIDDEN, PROJECT, 3),
    ],
)
async def test_decision_lives_from_the_answer_on_however_often_it_is_used(
    auth: Auth, answer: TuistReply, project: Project, life: float
) -> None:
    """For all who have waited for it; its lifetime is what is left of it."""
    auth.tuist.answers[TOKEN] = answer
    auth.tuist.delay = 5
    asked = [await auth.ask(TOKEN, project) for _ in range(3)]
    assert {(await task.result()).lifetime for task in asked} == {life}
    for age in (0, 0.1, life / 2, life - 0.5, life - 0.01):
        await sleep_until(5 + age)
        assert (await auth.decide(TOKEN, project)).lifetime == pytest.approx(life - age)
    assert auth.tuist.asked(TOKEN) == 1
    await sleep_until(5 + life)
    assert (await auth.decide(TOKEN, project)).lifetime == life
    assert auth.tuist.asked(TOKEN) == 2


@pytest.mark.parametrize("answer", [UNAUTHORIZED, FORBIDDEN, granting("acme/other-app")])
async def test_what_tuist_takes_back_is_lost_as_soon_as_it_says_so(
    auth: Auth, answer: TuistReply
) -> None:
    await auth.decide(TOKEN)
    auth.tuist.answers[TOKEN] = answer
    await sleep_until(300)
    assert await auth.access(TOKEN) is Access.GRANTED
    refusal = await auth.access(TOKEN, parse_project("acme", "third"))  # has to ask
    assert refusal is not Access.GRANTED
    assert await auth.access(TOKEN) is refusal
    assert auth.tuist.asked(TOKEN) == 2
    auth.tuist.trouble = DOWN
    await sleep_until(310)
    await unknown(auth, TOKEN)  # nor does it come back as a stale one


# Outages.


async def become_stale(auth: Auth) -> None:
    """Have Tuist be down, and the yes that `TOKEN` had be given as a stale one from now on."""
    await auth.decide(TOKEN)
    auth.tuist.trouble = DOWN
    await sleep_until(600)
    assert await auth.decide(TOKEN) == Decision(Access.GRANTED, 3)


async def test_outage_without_history_is_unknown_and_says_when_to_ask_again(auth: Auth) -> None:
    auth.tuist.trouble = DOWN
    for age, left in [(0, 3), (0.5, 3), (1, 2), (1.5, 2), (2.5, 1), (2.99, 1)]:
        await sleep_until(age)
        for token in (TOKEN, OTHER_TOKEN):
            trouble = await unknown(auth, token)
            assert str(trouble) == DOWN
            assert trouble.retry_after == left
    assert auth.tuist.asked(TOKEN) == auth.tuist.asked(OTHER_TOKEN) == 1


async def test_3_seconds_begin_when_an_attempt_has_failed(auth: Auth) -> None:
    auth.tuist.trouble, auth.tuist.delay = DOWN, TIMEOUT
    await unknown(auth, TOKEN)
    assert trio.current_time() == TIMEOUT
    await sleep_until(TIMEOUT + ATTEMPT_INTERVAL - 0.1)
    await unknown(auth, TOKEN)
    assert auth.tuist.asked(TOKEN) == 1
    await sleep_until(TIMEOUT + ATTEMPT_INTERVAL)
    await unknown(auth, TOKEN)
    assert auth.tuist.asked(TOKEN) == 2


async def test_a_yes_goes_on_until_1500_seconds_after_it_was_given(auth: Auth) -> None:
    """Stale from 600 s on, until the next attempt at most; nobody is asked sooner than that."""
    await auth.decide(TOKEN)
    auth.tuist.trouble = DOWN
    for age, lifetime, asked_before in [
        (599, 1, 1),
        (600, 3, 1),
        (601, 3, 2),
        (602.9, 3, 2),
        (603, 3, 2),
        (605.9, 3, 3),
        (1496, 3, 3),
        (1498, 2, 4),
        (1499.5, 0.5, 4),
    ]:
        await sleep_until(age)
        assert auth.tuist.asked(TOKEN) == asked_before
        assert granted_for(await auth.decide(TOKEN)) == pytest.approx(lifetime)
    await sleep_until(1500)
    assert 1 <= (await unknown(auth, TOKEN)).retry_after <= 3
    await sleep_until(1600)
    assert (await unknown(auth, TOKEN)).retry_after == 3


async def test_in_an_outage_a_yes_is_one_for_the_projects_it_was_given_for(auth: Auth) -> None:
    await auth.decide(TOKEN)
    auth.tuist.trouble = DOWN
    for age, lifetime in [(10, 590), (600, 3), (601, 3)]:
        await sleep_until(age)
        await unknown(auth, TOKEN, OTHER_PROJECT)
        assert granted_for(await auth.decide(TOKEN)) == pytest.approx(lifetime)


@pytest.mark.parametrize("before", [UNAUTHORIZED, FORBIDDEN, granting("acme/other-app")])
async def test_no_refusal_comes_out_of_an_outage(auth: Auth, before: TuistReply) -> None:
    auth.tuist.answers[TOKEN] = before
    assert await auth.access(TOKEN) is not Access.GRANTED
    auth.tuist.trouble = DOWN
    for age in (3, 4, 6.5, 100, 599, 601, 1501):
        await sleep_until(age)
        await unknown(auth, TOKEN)


async def test_in_a_known_outage_a_stale_yes_does_not_wait_for_tuist(auth: Auth) -> None:
    await become_stale(auth)
    auth.tuist.gate = trio.Event()  # from now on it hangs
    for age in (604, 605, 620):
        await sleep_until(age)
        assert await auth.access(TOKEN) is Access.GRANTED
        assert trio.current_time() == age
    await trio.testing.wait_all_tasks_blocked()
    assert auth.tuist.asked(TOKEN) == 3  # once more, behind those answers
    assert auth.tuist.under_way == 1
    auth.tuist.trouble = None
    auth.tuist.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert await auth.decide(TOKEN) == Decision(Access.GRANTED, 600)


async def test_recovery_is_noticed_by_the_next_attempt(auth: Auth) -> None:
    await become_stale(auth)
    await unknown(auth, OTHER_TOKEN)
    auth.tuist.trouble = None
    auth.tuist.answers[OTHER_TOKEN] = granting(str(PROJECT))
    await sleep_until(603)
    assert await auth.access(TOKEN) is Access.GRANTED
    assert await auth.decide(OTHER_TOKEN) == Decision(Access.GRANTED, 600)
    assert await auth.decide(TOKEN) == Decision(Access.GRANTED, 600)
    assert auth.tuist.asked(TOKEN) == 3
    assert auth.tuist.asked(OTHER_TOKEN) == 2


# Bounds.


async def expired(auth: Auth, number: int) -> list[str]:
    """So many tokens that had access, and have to be asked about again."""
    tokens = [f"Bearer known {n}" for n in range(number)]
    auth.tuist.answers |= dict.fromkeys(tokens, granting(str(PROJECT)))
    for token in tokens:
        await auth.decide(token)
    await trio.sleep(600)
    auth.tuist.questions.clear()
    return tokens


async def take_all_connections(auth: Auth) -> list[Task[Decision]]:
    """Have Tuist not answer as many questions about new tokens as it is asked at once."""
    auth.tuist.gate = trio.Event()
    return [await auth.ask(f"Bearer {number}") for number in range(CONNECTIONS // 2)]


async def test_no_more_questions_at_once_than_there_are_connections(auth: Auth) -> None:
    """Half of them are for tokens that had access before, which no flood of others delays."""
    known = await expired(auth, CONNECTIONS)
    auth.tuist.gate, auth.tuist.most_under_way = trio.Event(), 0
    asked = [await auth.ask(f"Bearer {number}") for number in range(5 * CONNECTIONS)]
    assert auth.tuist.under_way == CONNECTIONS // 2
    asked += [await auth.ask(token) for token in known]
    assert auth.tuist.under_way == CONNECTIONS
    auth.tuist.gate.set()
    for task in asked:
        await task.result()
    assert auth.tuist.most_under_way == CONNECTIONS
    assert len(auth.tuist.questions) == len(asked)


async def test_new_tokens_that_wait_for_tuist_are_bounded(auth: Auth) -> None:
    """A project may have half of all places, whatever is asked about it."""
    [known] = await expired(auth, 1)
    await auth.decide(TOKEN)
    auth.tuist.gate = trio.Event()
    tasks = [auth.start(auth.decide(f"Bearer {number}")) for number in range(MAX_QUESTIONS // 2)]
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(TooManyQuestions):
        await auth.decide("Bearer one too many")
    joins = await auth.ask("Bearer 1")  # a token that is being asked about already
    goes_on = await auth.ask(known)
    assert await auth.access(TOKEN) is Access.GRANTED
    assert not any(task.is_done() for task in [*tasks, joins, goes_on])
    auth.tuist.gate.set()
    assert {(await task.result()).access for task in [*tasks, joins]} == {Access.UNAUTHORIZED}
    assert (await goes_on.result()).access is Access.GRANTED
    assert await auth.access("Bearer one too many") is Access.UNAUTHORIZED


async def test_a_yes_goes_on_if_too_many_known_tokens_have_to_be_asked_about(
    auth: Auth,
) -> None:
    auth.cache._queues[True]._places.limit = 2 * CONNECTIONS
    known = await expired(auth, CONNECTIONS + 1)
    last = known.pop()
    auth.tuist.gate = trio.Event()
    tasks = [await auth.ask(token) for token in known]
    assert await auth.decide(last) == Decision(Access.GRANTED, 3)
    auth.tuist.gate.set()
    for task in tasks:
        await task.result()


async def test_token_that_nobody_waits_for_any_more_is_neither_asked_about_nor_kept(
    auth: Auth,
) -> None:
    first = await take_all_connections(auth)
    late = [await auth.ask(token) for token in (TOKEN, OTHER_TOKEN)]
    for task in late:
        await task.leave()
    comes_after_all = await auth.ask(OTHER_TOKEN)
    auth.tuist.gate.set()
    for task in first:
        await task.result()
    assert (await comes_after_all.result()).access is Access.UNAUTHORIZED
    assert auth.tuist.asked(TOKEN) == 0
    assert auth.tuist.asked(OTHER_TOKEN) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert list(auth.mailbox._in_hand) == []
    auth.tuist.answers.clear()
    assert not holds("token-of-a-developer", auth.mailbox, auth.cache)


@pytest.mark.parametrize("steps", range(16))
async def test_caller_who_comes_as_a_question_is_dropped_is_answered(
    auth: Auth, steps: int
) -> None:
    """At whichever step of the scheduler it comes."""
    await take_all_connections(auth)
    late = await auth.ask(TOKEN)
    await late.leave()
    auth.tuist.gate.set()
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    comes = auth.start(auth.decide(TOKEN))
    assert (await comes.result()).access is Access.GRANTED
    assert auth.tuist.asked(TOKEN) == 1


@pytest.mark.parametrize("trouble", [None, DOWN])
async def test_flood_of_bad_tokens_pushes_out_no_good_one_and_is_bounded(
    auth: Auth, monkeypatch: pytest.MonkeyPatch, trouble: str | None
) -> None:
    monkeypatch.setattr("cache_actors.access.tokens.MAX_TOKENS", 50)
    await auth.decide(TOKEN)
    auth.tuist.trouble = trouble
    for number in range(200):
        if trouble is None:
            assert await auth.access(f"Bearer {number}") is Access.UNAUTHORIZED
        else:
            await unknown(auth, f"Bearer {number}")
    assert len(auth.tuist.questions) == 1 + 200
    assert auth.remembered() == 1 + 50
    assert await auth.access(TOKEN) is Access.GRANTED
    assert auth.tuist.asked(TOKEN) == 1
    await sleep_until(600)
    assert await auth.access(TOKEN) is Access.GRANTED


@given(st.lists(st.tuples(st.sampled_from(b"abcdef"), st.none() | st.integers(0, 7)), max_size=40))
def test_tokens_used_last_are_remembered_as_far_as_they_and_their_names_fit(
    steps: list[tuple[int, int | None]],
) -> None:
    """Each step puts a token with so many names, or looks one up. Those without any are apart."""
    tokens, good, bad = TokenMemory(), dict[bytes, TokenState](), dict[bytes, TokenState]()
    with pytest.MonkeyPatch.context() as bounds:
        bounds.setattr("cache_actors.access.tokens.MAX_TOKENS", 3)
        bounds.setattr("cache_actors.access.tokens.MAX_NAMES", 10)
        for digit, names in steps:
            key = bytes([digit])
            if names is None:
                assert tokens.get(key) == good.get(key, bad.get(key, TokenState()))
                if key in good:
                    good[key] = good.pop(key)
                continue
            tokens.put(key, token := TokenState(granting(*map(str, range(names)))))
            good.pop(key, None)
            bad.pop(key, None)
            (good if names else bad)[key] = token
            while len(good) > 3:
                del good[next(iter(good))]
            while sum(len(t.answer.projects) for t in good.values()) > 10:
                del good[max(good, key=lambda each: len(good[each].answer.projects))]
            while len(bad) > 3:
                del bad[next(iter(bad))]
            assert list(tokens._with_access) == list(good)
            assert list(tokens._without) == list(bad)


async def test_token_with_more_names_than_fit_is_decided_on_and_not_kept(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_actors.access.tokens.MAX_NAMES", 10)
    auth.tuist.answers[OTHER_TOKEN] = granting(str(PROJECT), *(f"acme/{n}" for n in range(10)))
    assert await auth.access(OTHER_TOKEN) is Access.GRANTED
    assert auth.remembered() == 0
    assert await auth.access(TOKEN) is Access.GRANTED
    assert auth.remembered() == 1


# Crashes and the end.


async def test_crash_is_heard_by_all_whose_questions_were_under_way(auth: Auth) -> None:
    await auth.decide(TOKEN)
    auth.tuist.gate = trio.Event()
    auth.tuist.trouble = ValueError("a bug")
    asked = [await auth.ask(token) for token in (OTHER_TOKEN, OTHER_TOKEN, "Bearer third")]
    auth.tuist.gate.set()
    for task in asked:
        assert isinstance(await task.error(), ActorCrashed)
    auth.tuist.trouble = None
    assert await auth.access(OTHER_TOKEN) is Access.UNAUTHORIZED
    assert await auth.access(TOKEN) is Access.GRANTED
    assert auth.tuist.asked(TOKEN) == 2  # the new incarnation has to ask
    assert len(auth.incarnations) == 2
    assert auth.tuist.open_connections == 1
    assert auth.tuist.under_way == 0


async def test_stop_answers_those_whose_questions_are_under_way(auth: Auth) -> None:
    auth.tuist.gate = trio.Event()
    task = await auth.ask(TOKEN)
    await auth.root.stop()
    assert isinstance(await task.error(), ActorStopped)
    assert auth.tuist.under_way == auth.tuist.open_connections == 0
    assert auth.root.logged == []


async def test_full_mailbox_is_refused_at_once() -> None:
    client = AuthCacheClient(Mailbox("nobody reads it", capacity=0).address, SECRET)
    with pytest.raises(MailboxFull):
        await client.decide(TOKEN, PROJECT, Action.READ, "r")


# Secrets.


CODE = (type, types.ModuleType, types.FunctionType, types.CodeType)


def reachable_texts(*roots: object) -> set[str]:
    """All texts, and bytes as texts, that can be reached from `roots` by way of data.

    Not by way of code or of trio's tasks, as those reach everything.
    """
    found: set[str] = set()
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, str):
            found.add(thing)
        elif isinstance(thing, bytes | bytearray):
            found.add(thing.decode("latin-1"))
        elif not isinstance(thing, CODE) and not type(thing).__module__.startswith("trio"):
            todo.extend(gc.get_referents(thing))
    return found


def holds(secret: str, mailbox: Mailbox, cache: AuthCache) -> bool:
    """Whether the cache, or its mailbox, has `secret` somewhere."""
    texts = reachable_texts(vars(cache), vars(mailbox), list(mailbox._receive._state.data))
    return any(secret in text for text in texts)


@pytest.mark.parametrize("trouble", [None, DOWN])
async def test_token_is_held_while_tuist_is_asked_and_no_longer(
    auth: Auth, trouble: str | None
) -> None:
    auth.tuist.gate, auth.tuist.trouble = trio.Event(), trouble
    asked = [await auth.ask(token) for token in (TOKEN, OTHER_TOKEN)]
    assert holds("token-of-a-developer", auth.mailbox, auth.cache)
    auth.tuist.gate.set()
    questions, auth.tuist.questions = auth.tuist.questions, []
    auth.tuist.answers = {}
    for task in asked:
        await (task.result() if trouble is None else task.error())
    assert len(questions) == 2
    await trio.testing.wait_all_tasks_blocked()
    assert auth.remembered() == 2
    assert not holds("token-of", auth.mailbox, auth.cache)


async def test_connection_to_tuist_keeps_no_token(run_tree: Run, nursery: trio.Nursery) -> None:
    with StandInTuist({"token-of-a-developer": [str(PROJECT)]}) as tuist:
        auth = Auth(nursery, FakeTuist())
        auth.new_api = lambda: TuistApi(tuist.url)
        await run_tree(auth.child)
        for token in (TOKEN, OTHER_TOKEN):
            await auth.decide(token)
        gc.collect()
        assert not holds("token-of", auth.mailbox, auth.cache)


async def test_tokens_are_kept_as_hashes_with_the_secret_as_their_key(auth: Auth) -> None:
    await auth.decide(TOKEN)
    other = AuthCacheClient(auth.mailbox.address, b"other secret")
    assert (await other.decide(TOKEN, PROJECT, Action.READ, "r")).access is Access.GRANTED
    assert auth.tuist.asked(TOKEN) == 2
    assert list(auth.cache._tokens._with_access) == [
        hmac.digest(secret, TOKEN.encode(), "sha256") for secret in (SECRET, b"other secret")
    ]


async def test_nothing_that_is_printed_shows_a_token(auth: Auth) -> None:
    key = hmac.digest(SECRET, TOKEN.encode(), "sha256")
    question = Decide(key, str(PROJECT), Action.READ, TOKEN, "r")
    answered = ReplyReceived(key, granting(str(PROJECT)))
    auth.tuist.trouble = DOWN
    trouble = await unknown(auth, TOKEN)
    for thing in (question, [question], answered, trouble, auth.cache, auth.client):
        assert "token-of" not in repr(thing) + str(thing)


# What is told of it.


async def test_decisions_are_counted_by_what_they_rest_on(auth: Auth) -> None:
    await auth.decide(TOKEN)
    await auth.decide(TOKEN)
    await auth.decide(TOKEN, OTHER_PROJECT)
    await auth.decide("Bearer unknown")
    auth.tuist.trouble = DOWN
    await sleep_until(700)
    await auth.decide(TOKEN)
    await unknown(auth, OTHER_TOKEN)
    await unknown(auth, OTHER_TOKEN)
    found = Scrape.of(auth.metrics)
    once = "granted tuist, granted memory, forbidden memory, unauthorized tuist, granted stale"
    for each in f"{once}, unknown tuist, unknown memory".split(", "):
        outcome, source = each.split()
        assert found.value("cache_actors_decisions_total", outcome=outcome, source=source) == 1


async def test_questions_to_tuist_are_counted_and_failures_logged(auth: Auth) -> None:
    auth.tuist.delay = 2.0
    await auth.decide(TOKEN)
    auth.tuist.trouble = DOWN
    await unknown(auth, OTHER_TOKEN)
    found = Scrape.of(auth.metrics)
    seconds = "cache_actors_tuist_request_duration_seconds"
    assert found.value(seconds + "_count", outcome="granted") == 1
    assert found.value(seconds + "_sum", outcome="granted") == pytest.approx(2)
    assert found.value(seconds + "_count", outcome="failed") == 1
    assert auth.log == [{"event": "tuist_failed", "request_id": "r", "reason": DOWN}]


async def test_oddity_of_tuists_answers_is_logged_once_until_it_changes(auth: Auth) -> None:
    for number, oddity in enumerate(["", "one", "one", "two"]):
        auth.tuist.answers[f"token {number}"] = replace(granting(str(PROJECT)), oddity=oddity)
        assert await auth.access(f"token {number}") is Access.GRANTED
    assert [line["reason"] for line in auth.log.of("tuist_answer_odd")] == ["one", "two"]


# Shares: a project with many new tokens keeps those of others from nothing.


@pytest.fixture
def impatient(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> Auth:
    """The same; a question waits for its turn for 5 s at most, as in service."""
    monkeypatch.setattr(auth_cache, "MAX_WAIT_SECONDS", 5.0)
    return auth


async def refused_among(tasks: list[Task[Decision]]) -> list[Exception]:
    """The errors that those of `tasks` which are done have met."""
    outcomes = [await task.outcome() for task in tasks if task.is_done()]
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


async def test_new_token_of_another_project_is_asked_about_in_turn(auth: Auth) -> None:
    first = await take_all_connections(auth)
    flood = [await auth.ask(f"Bearer more {number}") for number in range(200)]
    other = await auth.ask(OTHER_TOKEN, OTHER_PROJECT)
    auth.tuist.gate.set()
    for task in [*first, *flood, other]:
        await task.result()
    asked = [authorization for authorization, _ in auth.tuist.questions]
    assert asked.index(OTHER_TOKEN) < 2 * len(first)


async def test_flood_of_new_tokens_of_one_project_leaves_places_to_others(auth: Auth) -> None:
    auth.tuist.gate = trio.Event()
    flood = [auth.start(auth.decide(f"Bearer {number}")) for number in range(MAX_QUESTIONS)]
    await trio.testing.wait_all_tasks_blocked()
    refused = await refused_among(flood)
    assert {type(error) for error in refused} == {TooManyQuestions}
    assert len(refused) == MAX_QUESTIONS // 2
    other = await auth.ask(OTHER_TOKEN, OTHER_PROJECT)
    assert not other.is_done()
    auth.tuist.gate.set()
    await other.result()


async def test_who_cannot_be_asked_about_in_time_hears_that_at_once(impatient: Auth) -> None:
    """1,000 new tokens, and a Tuist that takes half a second for each."""
    auth = impatient
    auth.tuist.delay = 0.5
    began = trio.current_time()
    tasks = [auth.start(auth.decide(f"Bearer {number}")) for number in range(1000)]
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == began
    refused = await refused_among(tasks)
    assert {str(error) for error in refused} == {"Too many tokens are being asked about"}
    assert len(refused) == 1000 - 10 * (CONNECTIONS // 2)
    for task in tasks:
        await task.outcome()
    assert trio.current_time() - began <= 5.5
    assert len(await refused_among(tasks)) == len(refused)  # all others were answered


async def test_pace_is_that_of_tuist(impatient: Auth) -> None:
    """Of a quick one more may wait, of a slow one fewer."""
    auth = impatient
    admitted = []
    for delay in (0.05, 5.0):
        auth.tuist.delay = delay
        for number in range(20):
            await auth.decide(f"Bearer {delay} {number}")
        tasks = [auth.start(auth.decide(f"Bearer {delay} at once {n}")) for n in range(400)]
        await trio.testing.wait_all_tasks_blocked()
        admitted.append(len(tasks) - len(await refused_among(tasks)))
        for task in tasks:
            await task.outcome()
    assert admitted == [400, CONNECTIONS]


async def test_reason_is_tuists_when_it_is_what_holds_up_the_queue(impatient: Auth) -> None:
    auth = impatient
    auth.tuist.trouble, auth.tuist.delay = DOWN, 10.0
    await unknown(auth, OTHER_TOKEN)
    tasks = [auth.start(auth.decide(f"Bearer {number}")) for number in range(100)]
    await trio.testing.wait_all_tasks_blocked()
    refused = await refused_among(tasks)
    assert len(refused) >= 100 - CONNECTIONS // 2 - 10
    assert {(type(error), str(error)) for error in refused} == {(AccessUnknown, DOWN)}
    for task in tasks:
        await task.outcome()


async def test_turn_that_does_not_come_in_time_is_not_waited_for(impatient: Auth) -> None:
    auth = impatient
    first = await take_all_connections(auth)  # of a Tuist that hangs, and was quick before
    late = await auth.ask(TOKEN)
    assert not late.is_done()
    assert isinstance(await late.outcome(), TooManyQuestions)
    assert trio.current_time() == 5.0
    auth.tuist.gate.set()
    for task in first:
        await task.result()
    assert await auth.access(TOKEN) is Access.GRANTED  # nothing is held against the token


async def test_overload_is_counted_as_such(impatient: Auth) -> None:
    await take_all_connections(impatient)
    impatient.tuist.gate = trio.Event()
    asked = await impatient.ask(TOKEN)
    await asked.outcome()
    found = Scrape.of(impatient.metrics)
    name = "cache_actors_decisions_total"
    assert found.value(name, outcome="overloaded", source="memory") == 1


async def test_token_with_very_many_projects_pushes_out_no_others(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_actors.access.tokens.MAX_NAMES", 100)
    others = [f"Bearer {number}" for number in range(5)]
    auth.tuist.answers |= dict.fromkeys(others, granting(str(PROJECT)))
    large = granting(str(PROJECT), *(f"acme/{n}" for n in range(97)))
    auth.tuist.answers[OTHER_TOKEN] = large
    for token in [*others, OTHER_TOKEN, *others]:
        assert await auth.access(token) is Access.GRANTED
    assert [auth.tuist.asked(token) for token in others] == [1] * 5
