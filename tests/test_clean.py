"""Cleaning, rule by rule, on texts as Reddit has them."""

from collections import Counter

import pytest

from persuasion_rl.clean import RULES, clean, unusable

FOOTNOTE = (
    "\n\n_____\n\n&gt; *Hello, users of CMV! This is a footnote from your moderators. We'd just like to"
    " remind you of a couple of things.* ***[read through our rules](http://www.reddit.com/r/rules)***."
    " *Happy CMVing!*"
)


@pytest.mark.parametrize(
    "raw, cleaned",
    [
        ("A &amp; B &lt; C &quot;quoted&quot;", 'A & B < C "quoted"'),
        ("&gt; You said so.\n\nI did not.", "> You said so.\n\nI did not."),
        ("twice escaped: &amp;gt; and &amp;amp;", "twice escaped: > and &"),
        ("I see it so." + FOOTNOTE, "I see it so."),
        ("I see it so." + FOOTNOTE.replace("&gt;", ">"), "I see it so."),
        ("&#8710; That changed my view.", "That changed my view."),
        ("∆ Thanks.\n\n!delta", "Thanks."),
        ("!DELTA for you", "for you"),
        ("Confirmed: 1 delta awarded to /u/some_one-1.", "Confirmed: 1 to [user]."),
        ("Ask u/somebody or /u/Some-Body_2, he knows.", "Ask [user] or [user], he knows."),
        ("Two  spaces\tand\n\n\n\nmany lines \n", "Two spaces and\n\nmany lines"),
        ("EDIT: ∆ awarded, thanks all!", ""),
    ],
)
def test_a_text_is_cleaned(raw, cleaned):
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    "line",
    [
        "EDIT: my view has changed.",
        "Edit: typo",
        "edit: formatting",
        "**EDIT:** delta to the first reply.",
        "**Edit**: delta to the first reply.",
        "*edit: thanks*",
        "[EDIT]: thanks",
        "EDIT 2: I gave a delta.",
        "Edit 3 - still thinking",
        "Edit* thanks",
        "EDIT; thanks",
        "UPDATE: view changed!",
        "Edited: for clarity",
        "&gt; EDIT: quoted",
        # All of the following stand in the real corpus too.
        "Edit2: I appreciate the dialogue.",
        "EDIT3: good night.",
        "EDIT_1: Thanks to everyone who has responded thus far.",
        "Edit #2: two deltas given.",
        "---Edit---",
    ],
)
def test_an_edit_line_is_cut_and_what_stands_around_it_stays(line):
    assert (
        clean(f"My point stands.\n\n{line}\n\nAnd this too.") == "My point stands.\n\nAnd this too."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Editing a film is hard.",
        "I would edit: first the title, then the text.",
        "Updates of a phone are a burden.",
        "You can buy a menu/lunch there, and a thousand/u is fine.",
        "The Mississippi delta is wide.",
        "Editors: they decide what we read.",
        "1. One\n2. Two",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert clean(text) == text


def test_the_counts_say_which_rules_changed_something():
    counts = Counter()
    clean("&gt; a &amp; b", counts)
    clean("plain", counts)
    clean("EDIT: thanks /u/x", counts)
    clean("∆ by /u/x" + FOOTNOTE, counts)
    assert set(counts) == set(RULES)
    assert counts == {
        "html_entities": 2, "footnote": 1, "edit_paragraph": 1, "delta_mark": 1, "user_name": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "speaker, text, distinguished, why",
    [
        ("anna", "A reply.", None, None),
        ("anna", "A reply.", "", None),
        ("[deleted]", "[deleted]", None, "deleted"),
        ("anna", "[removed]", None, "deleted"),
        ("anna", " [Deleted]\n", None, "deleted"),
        ("anna", "", None, "deleted"),
        ("[missing]", None, None, "missing"),
        ("DeltaBot", "Confirmed: 1 delta awarded.", None, "bot"),
        ("AutoModerator", "Please read the rules.", None, "bot"),
        ("SnapshillBot", "Archived.", None, "bot"),
        ("mod", "Sorry, removed.", "moderator", "moderator"),
    ],
)
def test_what_may_not_be_used_at_all(speaker, text, distinguished, why):
    assert unusable(speaker, text, distinguished) == why
