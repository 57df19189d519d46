import pytest

from fakes import CLOSE, END, OPEN
from thinkscale.endpoint import Choice
from thinkscale.thinking import Boundary, Cut, Trace, answer_prompt, answer_prompt_tokens, cut, read_trace, trace_prompt

TAGS = Boundary(open=(OPEN,), close=(CLOSE, 63), off=(OPEN, 63, CLOSE), stop=CLOSE)
CUE = Boundary(open=(), close=(60, 61), off=(62,), stop=None)  # a model without tags: end of text ends its thinking
B = 4


def drawn(ids, reason):
    kept = ids[:-1] if reason == "stop" else ids  # as the server does: text is without what stopped it
    return Choice(0, tuple(ids), "".join(chr(96 + i) for i in kept), reason, None)


@pytest.mark.parametrize(
    ("ids", "reason", "boundary", "thinking", "ended", "next_id"),
    [
        ((7, 8, CLOSE), "stop", TAGS, (7, 8), "closed", -1),
        ((CLOSE,), "stop", TAGS, (), "closed", -1),
        ((7, 8, 9, 10, CLOSE), "stop", TAGS, (7, 8, 9, 10), "closed", -1),  # begun exactly at the budget: closed
        ((7, 8, 9, 10, 11), "length", TAGS, (7, 8, 9, 10), "cut", 11),  # a close one later was not seen: cut
        ((7, 8, END), "stop", TAGS, (7, 8), "eos", -1),
        ((7, 8, 9, 10, END), "stop", TAGS, (7, 8, 9, 10), "eos", -1),
        ((END,), "stop", TAGS, (), "eos", -1),
        ((7, CLOSE, 8, END), "stop", CUE, (7, CLOSE, 8), "eos", -1),  # without a close of its own nothing but end of text ends it
        ((7, 8, 9, 10, 60), "length", CUE, (7, 8, 9, 10), "cut", 60),
    ],
)
def test_a_trace_is_read_as_closed_cut_or_ended(ids, reason, boundary, thinking, ended, next_id):
    trace = read_trace(None, drawn(ids, reason), boundary, B)
    assert (trace.ids, trace.ended, trace.budget, trace.next_id) == (thinking, ended, B, next_id)


@pytest.mark.parametrize(
    ("ids", "reason", "said"),
    [
        ((7,) * 6, "length", "ignores its cap"),
        ((7, 7, 7, 7, 7, CLOSE), "stop", "ignores its cap"),
        ((7, 8), "length", "gave no reason"),
    ],
)
def test_a_server_that_breaks_its_word_is_an_error(ids, reason, said):
    with pytest.raises(ValueError, match=said):
        read_trace(None, drawn(ids, reason), TAGS, B)


TRACES = {
    "closed": Trace((7, 8, 9), "closed", B),
    "closed at the cap": Trace((7, 8, 9, 10), "closed", B),
    "empty": Trace((), "closed", B),
    "eos": Trace((7, 8, 9), "eos", B),
    "cut": Trace((7, 8, 9, 10), "cut", B, 11),
}


@pytest.mark.parametrize(
    ("trace", "budget", "expected"),
    [
        ("closed", 0, Cut((), "off")),
        ("closed", 2, Cut((7, 8), "cut")),
        ("closed", 3, Cut((7, 8, 9), "closed")),
        ("closed", 4, Cut((7, 8, 9), "closed")),
        ("closed", 99, Cut((7, 8, 9), "closed")),
        ("closed at the cap", 3, Cut((7, 8, 9), "cut")),
        ("closed at the cap", 4, Cut((7, 8, 9, 10), "closed")),
        ("empty", 0, Cut((), "off")),
        ("empty", 1, Cut((), "closed")),
        ("eos", 2, Cut((7, 8), "cut")),
        ("eos", 3, Cut((7, 8, 9), "eos")),
        ("cut", 3, Cut((7, 8, 9), "cut")),
        ("cut", 4, Cut((7, 8, 9, 10), "cut")),
    ],
)
def test_a_budget_sees_the_whole_trace_or_its_first_ids(trace, budget, expected):
    assert cut(TRACES[trace], budget) == expected


def test_a_cut_trace_says_nothing_about_a_larger_budget():
    with pytest.raises(ValueError, match="cut at 4 says nothing about budget 5: continue it first"):
        cut(TRACES["cut"], 5)


def engine(stream, given, room):
    """What an engine that would write `stream` writes after the first `given` ids of it."""
    ids = stream[given : given + room]
    stop = next((i for i, token in enumerate(ids) if token in (CLOSE, END)), None)
    return drawn(ids, "length") if stop is None else drawn(ids[: stop + 1], "stop")


STREAMS = [(*range(7, 7 + length), last, 9, 9) for length in range(6) for last in (CLOSE, END)] + [tuple(range(7, 20))]


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_cuts_of_one_long_trace_are_the_traces_that_shorter_caps_would_have_drawn(stream):
    for largest, budget in ((b, a) for b in range(1, 8) for a in range(1, b + 1)):
        long = read_trace(None, engine(stream, 0, largest + 1), TAGS, largest)
        alone = read_trace(None, engine(stream, 0, budget + 1), TAGS, budget)
        assert cut(long, budget) == cut(alone, budget) == Cut(alone.ids, alone.ended)


@pytest.mark.parametrize(("first", "largest"), [(a, b) for b in range(2, 8) for a in range(1, b)])
def test_a_trace_that_was_cut_and_continued_is_the_one_that_ran_on(first, largest):
    for stream in STREAMS:
        check_continued(stream, read_trace(None, engine(stream, 0, first + 1), TAGS, first), first, largest)


def check_continued(stream, short, first, largest):
    if short.ended != "cut":
        return
    given = (*short.ids, short.next_id)
    assert given == stream[: first + 1]
    continued = read_trace(short, engine(stream, len(given), largest - first), TAGS, largest)
    long = read_trace(None, engine(stream, 0, largest + 1), TAGS, largest)
    assert (continued, continued.text, continued.hash) == (long, long.text, long.hash)


def test_a_hash_names_ids_and_end():
    traces = [Trace(ids, ended, B) for ids in ((), (1,), (1, 2), (12,)) for ended in ("closed", "cut", "eos")]
    assert len({t.hash for t in traces}) == len(traces)
    assert Trace((1, 2), "closed", 4).hash == Trace((1, 2), "closed", 9, text="read").hash


PROMPT, OPENED = (2, 30, 3), (2, 30, 3, OPEN)


@pytest.mark.parametrize("prompt", [PROMPT, OPENED])
@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Cut((7, 8), "cut"), (2, 30, 3, OPEN, 7, 8, CLOSE, 63)),
        (Cut((7, 8), "closed"), (2, 30, 3, OPEN, 7, 8, CLOSE, 63)),  # forced or natural: the same ids
        (Cut((7, 8), "eos"), (2, 30, 3, OPEN, 7, 8, CLOSE, 63)),
        (Cut((), "closed"), (2, 30, 3, OPEN, CLOSE, 63)),
        (Cut((), "off"), (2, 30, 3, OPEN, 63, CLOSE)),
    ],
)
def test_an_answer_is_asked_after_exactly_prompt_thinking_close(prompt, seen, expected):
    assert answer_prompt(prompt, seen, TAGS) == expected
    before, injected = answer_prompt_tokens(prompt, seen, TAGS)
    assert before + len(seen.ids) + injected == len(expected)
    assert injected == (len(TAGS.off) if seen.ended == "off" else len(TAGS.close))


def test_a_template_that_opens_thinking_is_not_opened_twice():
    assert trace_prompt(PROMPT, TAGS) == trace_prompt(OPENED, TAGS) == OPENED
    assert trace_prompt(PROMPT, CUE) == PROMPT
    assert answer_prompt(PROMPT, Cut((7,), "eos"), CUE) == (*PROMPT, 7, 60, 61)
    assert answer_prompt(PROMPT, Cut((), "off"), CUE) == (*PROMPT, 62)
    two = Boundary(open=(OPEN, 63), close=(CLOSE,), off=(OPEN, 63, CLOSE), stop=CLOSE)
    assert trace_prompt((*PROMPT, OPEN, 63), two) == (*PROMPT, OPEN, 63)
