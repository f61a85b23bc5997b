"""Cleaning, rule by rule, on texts as Reddit has them."""

from collections import Counter

import pytest

from persuasion_rl.data.clean import RULES, clean, clean_post, is_bot, unusable

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
        ("Confirmed: 1 delta awarded to /u/some_one-1.", ""),
        ("I see. Have a delta, /u/x! It was that argument.", "I see. It was that argument."),
        ("**Partial delta for /u/x.**\n\nHe has a point.", "He has a point."),
        ("(also, deltas incoming for more)\n\nThat is all.", "That is all."),
        ("!delta You changed my view.", ""),
        ("Hm. !delta thanks for that. It was new to me.", "Hm. It was new to me."),
        ("Ask u/somebody or /u/Some-Body_2, he knows.", "Ask [user] or [user], he knows."),
        (r"Ask /u/some\_body or reddit.com/user/any-one.", "Ask [user] or reddit.com[user]."),
        ("Two  spaces\tand\n\n\n\nmany lines \n", "Two spaces and\n\nmany lines"),
        ("EDIT: ∆ awarded, thanks all!", ""),
        ("&amp;#x200B;\n\n&#8203;", ""),
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
        "**EDIT**",
        "**EDIT** I have to go.",
        "EDIT fixed a typo",
        "Edit 2, view changed",
        "Edit#2 Here he is.",
        "(Edit) sorry for the wall of text",
        "**Final Edit:** it is done",
        "**Late edit**: added a summary",
        "HUGE EDIT: two people changed my view",
        "Quick edit: I forgot the second part.",
        "**Update! See below!**",
        "#Update:",
        "Edited for clarity",
        "**Edited to link some sources**",
        "[edited last paragraph for clarity]",
        "Edits made for spelling",
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
        "Update your phone, and all is well.",
        "Edited volumes are dull.",
        "edit wars are a waste of time",
        "A huge editor: that is what it takes.",
        "The final edit of the film is long.",
        "The sea rises, and deltas drown.",
        "Give me one reason. A delta is where a river ends.",
        "You can buy a menu/lunch there, and a thousand/u is fine.",
        "The Mississippi delta is wide.",
        "Editors: they decide what we read.",
        "1. One\n2. Two",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    "text, changed",
    [
        ("plain", {}),
        ("AT&T, u/ and a river's delta: u/edit?", {"user_name": 1}),
        ("&gt; a &amp; b", {"html_entities": 1}),
        ("EDIT: thanks /u/x", {"edit_line": 1}),
        ("Right.\n\nEDIT: thanks!\n\nUPDATE: more!", {"edit_line": 1}),
        ("Thanks for the delta /u/x. Bye.", {"delta_announcement": 1}),
        (
            "∆ by /u/x" + FOOTNOTE,
            {"html_entities": 1, "footnote": 1, "delta_mark": 1, "user_name": 1},
        ),
    ],
)
def test_the_counts_say_which_rules_changed_something(text, changed):
    counts = Counter()
    clean(text, counts)
    assert counts == changed
    assert set(counts) <= set(RULES)


@pytest.mark.parametrize(
    "entity", ["&#" + "9" * 5000 + ";", "&#x" + "f" * 5000, "&amp;#" + "9" * 5000]
)
def test_an_entity_that_no_character_has_is_no_error(entity):
    assert clean(f"A {entity} b") == "A \ufffd b"


@pytest.mark.parametrize("entity", ["&#13;", "&#x2028;", "&#12;", "&amp;#8232;"])
def test_an_entity_brings_in_no_odd_line_end(entity):
    assert clean(f"One.{entity}EDIT: thanks\n\nTwo.") == "One.\n\nTwo."


WORDS = " ".join(["Cats are clean."] * 20)  # 60 words


@pytest.mark.parametrize("mark", ["EDIT:", "**Edit 2:**", "UPDATE!", "Final edit:", "&gt; EDIT:"])
def test_what_a_poster_added_later_is_cut_from_the_post(mark):
    counts = Counter()
    post = f"{WORDS}\n\n{mark} you convinced me.\n\nDogs are loyal, as one of you said."
    assert clean_post(post, counts) == WORDS
    assert counts == {"later_edit_of_post": 1}
    assert clean(post) != WORDS, "a comment loses only the line"


def test_edit_lines_above_the_post_itself_go_alone():
    """Long ones too: their words are not the post's."""
    counts = Counter()
    above = f"EDIT: {WORDS}\n\nEDIT 2: {WORDS}\n\n"
    assert clean_post(above + WORDS, counts) == WORDS
    assert counts == {"edit_line": 1}
    assert clean_post(f"{above}{WORDS}\n\nEDIT 3: thanks.\n\nBye.") == WORDS


def test_an_early_edit_line_goes_alone_and_a_later_one_cuts():
    few = "Cats are clean and quiet."
    assert clean_post(f"{few}\n\nEDIT: typo\n\nDogs are not.") == f"{few}\n\nDogs are not."
    counts = Counter()
    post = f"EDIT: typo\n\n{WORDS}\n\nEDIT: thanks.\n\nBye."
    assert clean_post(post, counts) == WORDS
    assert counts == {"later_edit_of_post": 1, "edit_line": 1}


@pytest.mark.parametrize(
    "speaker, text, distinguished, why",
    [
        ("anna", "A reply.", None, None),
        ("anna", "A reply.", "", None),
        ("[deleted]", "[deleted]", None, "deleted"),
        ("anna", "[removed]", None, "deleted"),
        ("anna", " [Deleted]\n", None, "deleted"),
        ("anna", "", None, "deleted"),
        ("anna", "[deleted by user]", None, "deleted"),
        ("anna", "[ Removed by Reddit ]", None, "deleted"),
        (
            "anna",
            "[ Removed by Reddit on account of violating the [content policy](/help/contentpolicy). ]",
            None,
            "deleted",
        ),
        ("anna", r"\[removed\]", None, "deleted"),
        ("anna", "\u200b\n", None, "deleted"),
        ("anna", "[removed] is what he wrote, and [deleted]", None, None),
        ("[missing]", None, None, "missing"),
        ("DeltaBot", "Confirmed: 1 delta awarded.", None, "bot"),
        ("AutoModerator", "Please read the rules.", None, "bot"),
        ("SnapshillBot", "Archived.", None, "bot"),
        ("totes_meta_bot", "Linked elsewhere.", None, "bot"),
        ("SomeRandomBot", "Beep.", None, "bot"),
        ("mod", "Sorry, removed.", "moderator", "moderator"),
        ("mod", "Sorry anna, your comment has been removed:\n\n> Rule 2", None, "moderator"),
        ("anna", "Sorry, your view is wrong.", None, None),
        ("anna", "He said: Sorry, your comment has been removed.", None, None),
    ],
)
def test_what_may_not_be_used_at_all(speaker, text, distinguished, why):
    assert unusable(speaker, text, distinguished) == why


@pytest.mark.parametrize("speaker", ["WaitingForGobots", "Robotnik00", "Abbot", "robot", "Talbot"])
def test_people_with_bot_in_their_name_are_no_bots(speaker):
    assert not is_bot(speaker)


def test_a_reply_of_20_000_lines_and_one_of_a_word_and_10_000_newlines_are_cleaned():
    """The first took minutes, the second 20 to 41 s."""
    lines = "\n".join(f"line {number}" for number in range(20_000))
    assert clean(lines) == lines
    assert clean("credit" + "\n" * 10_000) == "credit"
