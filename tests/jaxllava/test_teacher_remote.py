"""Asking an endpoint: a real server on loopback with the failures of real ones."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.errors import UserError
from jaxllava.teacher.cache import Cache
from jaxllava.teacher.messages import Answer, Failure, Message, Request
from jaxllava.teacher.open import check
from jaxllava.teacher.remote import Remote
from jaxllava.teacher.settings import Settings
from tests.conftest import png
from tests.fake_teacher import KEY, FakeTeacher, Reply, Rule, error, said

pytest.importorskip("openai")


def one(text: str, key: str = "", **changes: Any) -> Request:
    return replace(Request(key or text, (Message("user", text),), max_tokens=8), **changes)


def ask(
    rule: Rule,
    requests: Sequence[Request],
    monkeypatch: pytest.MonkeyPatch,
    cache: Cache | None = None,
    first_wait: float = 0.01,
    **settings: Any,
) -> tuple[list[Answer | Failure], FakeTeacher]:
    """What a teacher makes of a server's replies."""
    with FakeTeacher(rule) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        teacher = Remote(Settings("teacher-1", **settings), cache, first_wait)
        return list(teacher.ask(requests)), fake


def test_what_an_endpoint_is_sent(monkeypatch) -> None:
    picture = png(1)
    asked = Request(
        "a",
        (
            Message("system", "short"),
            Message("user", "what is it", (picture, b"GIF89a..")),
            Message("assistant", "?"),
        ),
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
    )
    found, fake = ask(lambda body, number: "a b", [asked], monkeypatch)
    assert found == [Answer("a", "a b", "stop", 5, 2)]
    assert fake.keys == {f"Bearer {KEY}"}
    urls = [
        f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        "data:image/gif;base64,R0lGODlhLi4=",
    ]
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    assert fake.bodies == [
        {
            "model": "teacher-1",
            "messages": [
                {"role": "system", "content": "short"},
                {"role": "user", "content": [*shown, {"type": "text", "text": "what is it"}]},
                {"role": "assistant", "content": "?"},
            ],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
        }
    ]


@pytest.mark.parametrize(
    "first",
    [
        error(429, "rate_limit_exceeded"),
        error(429, "rate_limit_exceeded", retry_after="0.2"),
        error(408),
        error(409),
        error(500),
        error(503),
        Reply("cut", "some words"),
        Reply("malformed", "some words"),
        Reply("no choices"),
        Reply("error body", status=502),
        Reply(text=" \n"),
        Reply(text="late", seconds=20),
    ],
    ids=lambda reply: (
        f"{reply.kind}{reply.status}{'+' if reply.headers else ''}{'late' * bool(reply.seconds)}"
    ),
)
def test_what_may_do_better_is_tried_again(monkeypatch, first: Reply) -> None:
    found, fake = ask(
        lambda body, number: first if number == 0 else "fine", [one("q")], monkeypatch, timeout=1
    )
    assert found == [Answer("q", "fine", "stop", 1, 1)]
    assert list(fake.tries.values()) == [2]
    if first.headers:
        assert fake.at[1] - fake.at[0] >= 0.2


@pytest.mark.parametrize(
    ("always", "reason", "tries"),
    [
        (error(500), "HTTP 500", 3),
        (error(429, "rate_limit_exceeded"), "rate limited", 3),
        (Reply("cut", "some words"), "connection lost", 3),
        (Reply("malformed", "some words"), "malformed reply", 3),
        (Reply("no choices"), "returned nothing", 3),
        (Reply(text=""), "returned nothing", 2),
        (Reply(text="", finish="length"), "returned nothing", 1),
        (Reply(text="late", seconds=20), "timed out", 3),
        (Reply("refusal", "I will not"), "refused", 1),
        (Reply("filtered", "half"), "refused", 1),
        (error(400, "content_filter"), "refused", 1),
        (error(400, "context_length_exceeded"), "too long for the model", 1),
        (error(400, "", "This model's maximum context length is 8 tokens"), "too long for the model", 1),
        (error(400, "invalid_image"), "not accepted", 1),
        (error(400, "", "Requested too many tokens per minute"), "not accepted", 1),
        (error(422), "not accepted", 1),
        (error(403), "forbidden", 1),
    ],
)
def test_what_does_not_is_a_failure(monkeypatch, always: Reply, reason: str, tries: int) -> None:
    rule = lambda body, number: always if said(body) == "bad" else "fine"
    found, fake = ask(rule, [one("good"), one("bad")], monkeypatch, attempts=3, timeout=0.5, in_flight=1)
    by_key = {result.key: result for result in found}
    assert by_key["good"] == Answer("good", "fine", "stop", 1, 1)
    failed = by_key["bad"]
    assert isinstance(failed, Failure) and failed.reason == reason
    assert fake.tries[fake.name_of(next(body for body in fake.bodies if said(body) == "bad"))] == tries


@pytest.mark.parametrize(
    ("always", "says"),
    [
        (error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"), "OPENAI_API_KEY"),
        (error(404, "model_not_found"), "model's name"),
        (error(429, "insufficient_quota"), "add credit"),
        (error(402), "add credit"),
        (
            error(400, "unsupported_value", "only 1", param="temperature"),
            "takes no temperature.*; --temperature 1 leaves it to",
        ),
        (error(429, "rate_limit_exceeded", retry_after="7200"), "asks to wait 2.0 h"),
    ],
)
def test_what_no_request_gets_past_stops_the_run(monkeypatch, tmp_path, always: Reply, says: str) -> None:
    taken = []

    def many() -> Iterator[Request]:
        for number in range(10_000):
            taken.append(number)
            yield one(f"q{number}")

    with pytest.raises(UserError, match=says) as raised:
        ask(lambda body, number: always, many(), monkeypatch, Cache(tmp_path), in_flight=4)  # type: ignore[arg-type]
    assert KEY not in str(raised.value) and "\n" not in str(raised.value)
    assert f"kept in {tmp_path}" in str(raised.value)
    assert len(taken) < 100


def test_an_endpoint_that_is_down_stops_the_run(monkeypatch) -> None:
    requests = [one(f"q{number}") for number in range(500)]
    with pytest.raises(UserError, match=r"32 requests in a row were given up, the last for: HTTP 503"):
        ask(lambda body, number: error(503), requests, monkeypatch, attempts=1, in_flight=8)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    teacher = Remote(Settings("m", attempts=1, in_flight=4))
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9: .* connection lost"):
        list(teacher.ask(requests))


@pytest.mark.parametrize("always", [error(400, message="API key not valid"), error(413), error(403)])
def test_what_fails_every_request_stops_the_run(monkeypatch, always: Reply) -> None:
    with pytest.raises(UserError, match="32 requests in a row were given up, the last for: ") as raised:
        ask(lambda body, number: always, [one(f"q{i}") for i in range(500)], monkeypatch, in_flight=4)
    assert always.message in str(raised.value)
    refusals = [one(f"q{i}") for i in range(70)]
    found, _ = ask(lambda body, number: Reply("refusal", "no"), refusals, monkeypatch, in_flight=4)
    assert len(found) == 70, "a refusal is an answer"
    long = error(400, "context_length_exceeded")
    found, _ = ask(lambda body, number: long, refusals, monkeypatch, in_flight=4)
    assert len(found) == 70, "each is too long by itself"


def test_what_was_answered_before_says_that_the_endpoint_works(monkeypatch, tmp_path) -> None:
    """A run that goes on begins with what failed: many such in a row are no fault of the endpoint."""
    first, bad = [one("good")], [one(f"bad {i}") for i in range(70)]
    rule = lambda body, number: "fine" if said(body) == "good" else error(400, message="not this one")
    ask(rule, first, monkeypatch, Cache(tmp_path))
    for order in (first + bad, bad[:1] + first + bad[1:]):
        found, _ = ask(rule, order, monkeypatch, Cache(tmp_path), in_flight=4)
        assert len(found) == 71


def test_no_error_tells_the_key(monkeypatch) -> None:
    rule = lambda body, number: error(500, "", f"internal: Authorization Bearer {KEY} sk-proj-abcdefgh")
    (found,), _ = ask(rule, [one("q")], monkeypatch, attempts=1)
    assert isinstance(found, Failure)
    assert "[key]" in found.detail and KEY not in found.detail and "abcdefgh" not in found.detail


def test_a_cut_answer_says_so(monkeypatch) -> None:
    found, _ = ask(lambda body, number: Reply(text="a b c", finish="length"), [one("q")], monkeypatch)
    assert found == [Answer("q", "a b c", "length", 1, 3)]
    found, _ = ask(lambda body, number: Reply("no usage", "a b c"), [one("q")], monkeypatch)
    assert found == [Answer("q", "a b c", "stop", 0, 0)]


def test_half_of_a_surrogate_pair(monkeypatch, tmp_path) -> None:
    found, _ = ask(lambda body, number: "so \ud800 it is", [one("q")], monkeypatch, Cache(tmp_path))
    assert found == [Answer("q", "so \ufffd it is", "stop", 1, 4)]
    (failed,), fake = ask(lambda body, number: "fine", [one("\ud800")], monkeypatch)
    assert isinstance(failed, Failure) and failed.reason == "unreadable text" and not fake.bodies


def test_a_picture_that_is_none(monkeypatch) -> None:
    asked = Request("a", (Message("user", "what", (b"no picture",)),))
    (failed,), fake = ask(lambda body, number: "fine", [asked], monkeypatch)
    assert isinstance(failed, Failure) and failed.reason == "unreadable picture" and not fake.bodies


def test_models_with_another_name_for_the_limit(monkeypatch) -> None:
    def rule(body: dict[str, Any], number: int) -> Reply | str:
        if "max_tokens" in body:
            return error(400, "unsupported_parameter", "Use 'max_completion_tokens'", param="max_tokens")
        return str(body["max_completion_tokens"])

    found, fake = ask(rule, [one("q"), one("r")], monkeypatch, attempts=1, in_flight=1)
    assert [result.text for result in found if isinstance(result, Answer)] == ["8", "8"]
    assert len(fake.bodies) == 3  # learnt once


def test_what_was_answered_is_not_asked_again(monkeypatch, tmp_path) -> None:
    requests = [one("q", "1"), one("q", "2"), one("r", "3"), one("q", "4", draw=1)]
    slow = lambda body, number: Reply(text="fine", seconds=0.2)
    found, fake = ask(slow, requests, monkeypatch, Cache(tmp_path))
    assert {result.key for result in found} == {"1", "2", "3", "4"}
    assert len(fake.bodies) == 3  # the first two are equal, and were in flight together
    assert [result.key for result in found if isinstance(result, Answer) and result.kept] == ["2"]
    again, fake = ask(slow, [*requests, one("refused")], monkeypatch, Cache(tmp_path))
    assert len(fake.bodies) == 1
    assert {(result.key, result.kept) for result in again if isinstance(result, Answer)} == {
        *((str(number), True) for number in range(1, 5)),
        ("refused", False),
    }


def test_what_was_paid_for_is_kept_and_other_failures_are_not(monkeypatch, tmp_path) -> None:
    busy, fine = error(403, message="not here"), Reply(text="fine")
    for reply, kind in ((busy, Failure), (fine, Answer)):
        (found,), fake = ask(
            lambda body, number, reply=reply: reply, [one("q")], monkeypatch, Cache(tmp_path)
        )
        assert isinstance(found, kind) and len(fake.bodies) == 1
    thinks = Reply(text="", finish="length")  # all of its tokens went before the answer
    for text, reply, reason in (("a", Reply("refusal", "no"), "refused"), ("b", thinks, "returned nothing")):
        for tries in (1, 0):
            (found,), fake = ask(
                lambda body, number, reply=reply: reply, [one(text)], monkeypatch, Cache(tmp_path)
            )
            assert isinstance(found, Failure) and found.reason == reason and found.is_final
            assert len(fake.bodies) == tries


def test_requests_are_taken_as_there_is_room(monkeypatch) -> None:
    """Whoever asks for a million holds a few: none is taken long before there is room."""
    taken = answered = furthest = 0

    def many() -> Iterator[Request]:
        nonlocal taken, furthest
        for number in range(300):
            taken += 1
            furthest = max(furthest, taken - answered)
            yield one(f"q{number}")

    with FakeTeacher(lambda body, number: "fine") as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        for _ in Remote(Settings("m", in_flight=5)).ask(many()):
            answered += 1
            if answered < 20:
                time.sleep(0.01)  # who reads slowly holds no more
    assert answered == 300
    assert furthest <= 11
    assert fake.most <= 5


def test_who_stops_reading_leaves_nothing_behind(monkeypatch) -> None:
    with FakeTeacher(
        lambda body, number: Reply(text="fine", seconds=0 if said(body) == "q0" else 30)
    ) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        answers = Remote(Settings("m")).ask(one(f"q{number}") for number in range(1000))
        start = time.monotonic()
        assert next(answers).key == "q0"
        answers.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 10
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("teacher")]


def test_an_error_of_the_callers_own_requests_comes_through(monkeypatch) -> None:
    def broken() -> Iterator[Request]:
        yield one("q")
        raise RuntimeError("of the caller")

    with FakeTeacher(lambda body, number: Reply(text="fine", seconds=0.1)) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        for _ in range(10):  # the thread may be at its first step
            with pytest.raises(RuntimeError, match="of the caller"):
                list(Remote(Settings("m")).ask(broken()))


def test_a_word_of_too_much_slows_all(monkeypatch) -> None:
    """After one 429 that asks for 0.5 s nothing goes out for so long, though only one request was told."""
    told: list[float] = []

    def rule(body: dict[str, Any], number: int) -> Reply | str:
        if said(body) == "q3" and number == 0:
            told.append(time.monotonic())
            return error(429, "rate_limit_exceeded", retry_after="0.5")
        return Reply(text="fine", seconds=0.05)

    start = time.monotonic()
    found, fake = ask(rule, [one(f"q{number}") for number in range(40)], monkeypatch, in_flight=4)
    assert len(found) == 40 and all(isinstance(result, Answer) for result in found)
    # 0.1 s for the word to arrive.
    silent = [at for at in fake.at if told[0] + 0.1 < at < told[0] + 0.5]
    assert not silent and time.monotonic() - start > 0.5


def test_too_much_at_once_fails_nobody_while_others_get_through(monkeypatch) -> None:
    """An endpoint that takes two at a time: sixteen come, and each gets its turn however often it was sent away."""
    with FakeTeacher(lambda body, number: "") as fake:
        fake._rule = lambda body, number: (
            error(429, "rate_limit_exceeded") if fake.now > 2 else Reply(text="fine", seconds=0.02)
        )
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        teacher = Remote(Settings("m", in_flight=16, attempts=2), None, 0.01)
        found = list(teacher.ask(one(f"q{number}") for number in range(100)))
    assert Counter(type(result).__name__ for result in found) == {"Answer": 100}


def test_limits_a_minute(monkeypatch) -> None:
    start = time.monotonic()
    found, fake = ask(
        lambda body, number: "fine",
        [one(f"q{number}") for number in range(30)],
        monkeypatch,
        requests_per_minute=600,  # ten a second, ten ahead
    )
    assert len(found) == 30
    assert 1.8 < fake.at[-1] - fake.at[0] < 4 and time.monotonic() - start > 1.8


def test_a_cost_limit_holds(monkeypatch, tmp_path) -> None:
    """Each answer costs 8 and its request 1; its worst case is 8 + 10 bytes at most. 100 are enough for eleven."""
    prices: dict[str, Any] = {"price_in": 1e6, "price_out": 1e6, "in_flight": 4}
    requests = [one(f"q{number}") for number in range(30)]
    rule = lambda body, number: "a b c d e f g h"
    found = []
    with FakeTeacher(rule) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        cache = Cache(tmp_path)
        teacher = Remote(Settings("m", max_cost=100, **prices), cache)
        with pytest.raises(UserError, match=r"--max-cost 100: 90 is spent on 10 answers.* kept in"):
            for result in teacher.ask(requests):
                found.append(result)
        assert len(found) == 10 == len(fake.bodies) == len(cache)
        assert teacher.spent == pytest.approx(90)
        with pytest.raises(UserError, match="90 is spent on 0 answers"):
            list(teacher.ask(requests))  # the limit is for all that it is asked
        again = Remote(Settings("m", max_cost=300, **prices), cache)
        assert len(list(again.ask(requests))) == 30
        assert len(fake.bodies) == 30 and again.spent == pytest.approx(180)


def test_what_may_have_been_paid_counts_as_paid(monkeypatch) -> None:
    with FakeTeacher(lambda body, number: Reply("cut", "a b") if number == 0 else "a b") as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        teacher = Remote(Settings("m", price_in=1e6, price_out=1e6, max_cost=1000), None, 0.01)
        assert len(list(teacher.ask([one("q")]))) == 1
    assert teacher.spent == pytest.approx((3 + 4 + 1 + 8) + 3)


def test_an_endpoint_that_counts_more_than_was_thought(monkeypatch) -> None:
    """Words that count for many tokens: what the first answer teaches holds for those after it."""
    many = "x " * 400  # 800 bytes at most, and this endpoint's 400 tokens
    requests = [one(f"{many} {number}") for number in range(20)]
    with FakeTeacher(lambda body, number: "") as fake:
        import tests.fake_teacher as module

        monkeypatch.setattr(module, "count", lambda body: 4000)
        fake._rule = lambda body, number: "a"
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        teacher = Remote(Settings("m", price_in=1e6, price_out=1e6, max_cost=20_000, in_flight=1))
        with pytest.raises(UserError, match="--max-cost 20000"):
            list(teacher.ask(requests))
    assert teacher.spent <= 20_000 and len(fake.bodies) == 4


@pytest.mark.parametrize(
    ("base", "key", "says"),
    [
        ("", "", "set OPENAI_API_KEY"),
        ("", "sk-with\nline", "characters that no key has"),
        ("host:80/v1", "k", "no http or https address"),
    ],
)
def test_what_is_missing_is_told_before_the_first_request(
    monkeypatch, base: str, key: str, says: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", base)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for told in (check, lambda settings: list(Remote(settings).ask([one("q")]))):
        with pytest.raises(UserError, match=says) as raised:
            told(Settings("m"))
        assert "sk-with" not in str(raised.value)


def test_answers_of_another_endpoint_are_told(monkeypatch, tmp_path, capsys) -> None:
    said = []
    for text in ("a", "b", "c"):  # each time a server of another port
        _, fake = ask(lambda body, number: "fine", [one(text)], monkeypatch, Cache(tmp_path))
        said.append((fake.url.split("/")[2], capsys.readouterr().err))
    first = said[0][0]
    assert said[0][1] == ""
    for place, told in said[1:]:
        assert told.count("\n") == 1 and f"are those of {first}, and {place} is asked now" in told
    _, fake = ask(lambda body, number: "fine", [one("a")], monkeypatch, Cache(tmp_path))
    assert capsys.readouterr().err == "", "nothing is asked of it"


def test_what_is_kept_needs_no_key(monkeypatch, tmp_path) -> None:
    requests = [one("a"), one("b"), one("a")]
    ask(lambda body, number: "said", requests, monkeypatch, Cache(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    found = list(Remote(Settings("teacher-1"), Cache(tmp_path)).ask(requests))
    assert [answer.text for answer in found if isinstance(answer, Answer)] == ["said"] * 3
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        list(Remote(Settings("teacher-1"), Cache(tmp_path)).ask([*requests, one("c")]))


def test_a_missing_package_is_told_with_the_command(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install -c constraints\.txt -e '\.\[teacher\]'"):
        list(Remote(Settings("m")).ask([one("q")]))


def test_a_cache_that_cannot_be_written_stops_the_run(monkeypatch, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache._connection.execute("PRAGMA max_page_count=3")  # a disk that is full
    with pytest.raises(UserError, match=r"answers\.sqlite: cannot be used"):
        ask(lambda body, number: "word " * 5000, [one(f"q{i}") for i in range(20)], monkeypatch, cache)
