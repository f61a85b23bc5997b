"""Deltas in a corpus without marks: what counts as the poster's award, who won, who lost."""

import pytest

from persuasion_rl.data.cmv import labels_of
from persuasion_rl.data.corpus import Conversation, Utterance, read_threads
from persuasion_rl.data.deltas import award_ids, awards, won_and_lost

CONFIRMED = "Confirmed: 1 delta awarded to /u/ben. ^[[History](/r/changemyview/wiki/user/ben)]"
TOO_SHORT = (
    "This delta is currently disallowed as your comment contains either no or little text"
    " ([comment rule 4](http://www.reddit.com/r/changemyview/wiki/rules))."
)


def thread(*comments: tuple, poster: str = "op", **meta) -> Conversation:
    """A thread of (id, answers, speaker, text); the post is `post`."""
    utterances = [Utterance("post", "post", poster, "Cats are better.", None, None, {})]
    utterances += [
        Utterance(id_, "post", speaker, text, reply_to, None, {})
        for id_, reply_to, speaker, text in comments
    ]
    return Conversation("post", {"title": "CMV: cats"} | meta, {u.id: u for u in utterances})


def labels_after(text: str, *further: tuple, speaker: str = "op") -> dict[str, int]:
    """Who won and who lost after `text` answers the comment `b`, a sibling of `c`."""
    return won_and_lost(
        thread(
            ("b", "post", "ben", "Dogs are loyal."),
            ("c", "post", "carl", "Dogs are brave."),
            ("d", "b", speaker, text),
            *further,
        )
    )


@pytest.mark.parametrize(
    "text",
    [
        "∆ You changed my view.",
        "Δ You changed my view.",
        "&#8710; You changed my view.",
        "&amp;#8710; You changed my view.",
        "&#916; You changed my view.",
        "&Delta; You changed my view.",
        "&#x2206; You changed my view.",
        "&#X394; You changed my view.",
        "!delta You changed my view.",
        "`Code` changed my view. !delta for it`s mark",
        "You changed my view. !Delta",
        "You changed my view.\n\n!DELTA",
        "You changed my view. ! delta",
        "You changed my view !∆.",
        "**∆**",
        "∆",
        "∆∆",
        "> I said this.\n\nNot any more. ∆",
        "&gt; I said this.\n\nNot any more. ∆",
        "I had no idea. ∆",
        "Why not? !delta",
        "No, I do not. ∆ for that.",
        "No ∆ for the first part, but a ∆ for the second.",
    ],
)
def test_the_posters_mark_is_a_delta_for_the_comment_that_it_answers(text):
    assert awards(text)
    assert labels_after(text) == {"b": 1, "c": 0}


@pytest.mark.parametrize(
    "text",
    [
        "You changed my view.",
        "Thanks, a delta for you.",
        "> ∆ You changed my view.",
        "&gt; ∆ You changed my view.",
        "  &gt;&gt; !delta\n\nWhy did he get one?",
        "You award it by this:\n\n    !delta",
        "\t!delta",
        "You award it by `!delta`, I think.",
        "```\n!delta\n```\nis how.",
        "No delta.",
        "No ∆.",
        "No !delta from me.",
        "This is not a ∆.",
        "Sorry, I can't award a ∆ for that.",
        "That doesn’t deserve a ∆.",
        "I am not going to give you a !delta for this.",
        "It isn't quite enough to be worth a ∆",
        "I never gave you a ∆",
        "The whole field Δx vanishes.",
        "The deltas of rivers are wide!",
        "!deltas",
    ],
)
def test_quoted_marks_refusals_and_words_are_no_deltas(text):
    assert not awards(text)
    assert labels_after(text) == {}


def test_other_peoples_deltas_do_not_count():
    assert labels_after("∆ You changed my view.", speaker="eve") == {}
    assert (
        labels_after("∆ You changed my view.", ("x", "d", "DeltaBot", CONFIRMED), speaker="eve")
        == {}
    )


def test_deltabot_confirms_what_no_mark_shows():
    """The poster may have edited the mark out, or written it in a form that nobody knows."""
    assert labels_after("You changed my view.", ("x", "d", "DeltaBot", CONFIRMED)) == {
        "b": 1,
        "c": 0,
    }
    assert labels_after("You changed my view.", ("x", "d", "deltabot", CONFIRMED)) == {
        "b": 1,
        "c": 0,
    }
    assert labels_after("You changed my view.", ("x", "d", "eve", CONFIRMED)) == {}
    assert labels_after("You changed my view.", ("x", "b", "DeltaBot", CONFIRMED)) == {}


@pytest.mark.parametrize(
    "refusal",
    [
        TOO_SHORT,
        "This delta has been rejected. The length of your comment suggests that you haven't explained.",
        "You cannot award OP a delta as the moderators feel that allowing so would send the wrong message.",
        "You can't award DeltaBot a delta.",
    ],
)
def test_a_delta_that_deltabot_refused_does_not_count(refusal):
    assert labels_after("∆", ("x", "d", "DeltaBot", refusal)) == {}


def test_a_delta_that_deltabot_confirmed_after_a_refusal_counts():
    further = (("x", "d", "DeltaBot", TOO_SHORT), ("y", "d", "DeltaBot", CONFIRMED))
    assert labels_after("∆ Because of this.", *further) == {"b": 1, "c": 0}


def test_another_answer_of_deltabot_changes_nothing():
    assert labels_after("∆ Because.", ("x", "d", "DeltaBot", None)) == {"b": 1, "c": 0}


def test_of_a_poster_whose_account_is_deleted_nothing_is_known():
    comments = [("b", "post", "ben", "Dogs."), ("d", "b", "[deleted]", "∆ Yes.")]
    assert won_and_lost(thread(*comments, poster="op")) == {}
    assert won_and_lost(thread(*comments, poster="[deleted]")) == {}
    named = thread(*comments, poster="[deleted]", **{"op-userID": "op"})
    assert won_and_lost(named) == {}


def test_the_poster_gives_no_delta_to_a_comment_of_their_own_or_to_the_post():
    own = [("b", "post", "op", "I add this."), ("d", "b", "op", "∆"), ("e", "post", "op", "∆")]
    assert award_ids(thread(*own)) == {"d", "e"}
    assert won_and_lost(thread(*own)) == {}


def test_who_lost_answers_the_same_comment_and_led_to_no_delta():
    labels = won_and_lost(
        thread(
            ("won", "post", "ben", "Dogs are loyal."),
            ("thanks", "won", "op", "∆ Yes."),
            ("lost", "post", "carl", "Dogs are brave."),
            ("own", "post", "op", "I add this."),
            ("led", "post", "dora", "Ask any owner."),
            ("doubt", "led", "op", "Which one?"),
            ("won_below", "doubt", "dora", "My aunt."),
            ("thanks_too", "won_below", "op", "!delta That is true."),
            ("lost_below", "doubt", "eve", "None."),
            ("elsewhere", "lost", "ben", "Me too."),
        )
    )
    assert labels == {"won": 1, "won_below": 1, "lost": 0, "lost_below": 0}


def test_two_winners_beside_each_other_both_win():
    labels = labels_after("∆ Yes.", ("e", "c", "op", "∆ You too."), ("f", "post", "fay", "No."))
    assert labels == {"b": 1, "c": 1, "f": 0}


def test_an_award_in_a_broken_thread_is_no_crash():
    labels = won_and_lost(
        thread(
            ("to_nobody", "gone", "op", "∆"),
            ("orphan", "gone_too", "ben", "Dogs."),
            ("to_orphan", "orphan", "op", "∆"),
            ("one", "two", "carl", "Dogs."),
            ("two", "one", "op", "∆"),
            ("self", "self", "op", "∆"),
        )
    )
    assert labels == {"orphan": 1, "one": 1}


def test_marks_of_the_corpus_go_before_deltas_found():
    conversation = thread(
        ("b", "post", "ben", "Dogs are loyal."),
        ("c", "post", "carl", "Dogs are brave."),
        ("d", "b", "op", "∆"),
    )
    assert labels_of(conversation) == {"b": 1, "c": 0}
    for utterance, success in zip(conversation.utterances.values(), (1, 0, 1, None), strict=True):
        utterance.meta["success"] = success
    assert labels_of(conversation) == {"b": 0, "c": 1}, "the post is no reply"


def test_on_real_threads_what_is_found_contradicts_no_mark(real_data):
    """Ten complete threads have DeltaBot's comments. Tan et al. marked one winner and one loser of a pair: 12 of
    the 17 winners that are found are marked as winners, and the others not at all."""
    all_labels, all_marks = {}, {}
    for conversation in read_threads(real_data / "winning-args-corpus"):
        marks = labels_of(conversation)
        for utterance in conversation.utterances.values():
            utterance.meta.pop("success")
        if labels := labels_of(conversation):
            all_labels |= labels
            all_marks |= marks
            assert conversation.meta["train"] == 1
    won = {id_ for id_, success in all_labels.items() if success}
    assert len(won) == 17 and len(all_labels) - len(won) == 216
    assert sum(all_marks.get(id_) == 1 for id_ in won) == 12
    assert not any(id_ in all_marks and all_marks[id_] != all_labels[id_] for id_ in all_labels)
