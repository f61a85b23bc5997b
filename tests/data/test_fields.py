"""Values of a corpus in other types than ConvoKit's: what is read, and what is one line with file, line and key."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.data import fields
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.files import UserError
from small_corpora import META, POST, comment

NAN = float("nan")
MAY_2013 = 1367488800.0


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ("t1_ab", "ab"), ("t3_ab", "ab"), ("ab", "ab"), (" t1_ab\n", "ab"), ("a  b", "a b"), ("Ünï", "Ünï"),
        (5, "5"), (0, "0"), (-3, "-3"), (1.0, "1"), (10**30, str(10**30)),
        (None, None), (NAN, None), ("", None), (" ", None), ("t1_", None), ("t1_t3_a", "t3_a"),
        ("a\ud83d", "a\ufffd"), ("a\x00", "a"),
    ],
)  # fmt: skip
def test_ids_are_text_whatever_their_type(value, id_):
    assert fields.identifier("id", value) == id_


@pytest.mark.parametrize("value", [True, False, 1.5, [1], {}, math.inf, 1e20])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(UserError, match=r"^id is .*; expected text or a whole number"):
        fields.identifier("id", value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (MAY_2013, MAY_2013), (0, 0), (-1, -1), ("1367488800", MAY_2013), (" 1.5 ", 1.5),
        ("2013-05-02T10:00:00Z", MAY_2013), ("2013-05-02t10:00:00.000z", MAY_2013), ("2013-05-02 10:00:00", MAY_2013),
        ("2013-05-02 10:00:00 UTC", MAY_2013), ("2013-05-02T12:00:00+02:00", MAY_2013),
        ("2013-05-02", MAY_2013 - 36_000), (None, None), (NAN, None), ("", None), ("NaN", None), ("null", None),
    ],
)  # fmt: skip
def test_times_are_seconds_since_1970(value, seconds):
    assert fields.timestamp("timestamp", value) == seconds


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), st.integers(-14, 14))
def test_every_iso_time_is_read_in_its_zone(time, hours):
    zone = timezone(timedelta(hours=hours))
    assert fields.timestamp("timestamp", time.replace(tzinfo=zone).isoformat()) == pytest.approx(
        time.replace(tzinfo=UTC).timestamp() - 3600 * hours
    )


@pytest.mark.parametrize("value", [True, "yesterday", "2013-13-01", [1], {"$date": 1}, math.inf, 10**400, "1e999"])  # fmt: skip
def test_what_is_no_time_is_refused(value):
    with pytest.raises(UserError, match="expected seconds since 1970 or an ISO time"):
        fields.timestamp("timestamp", value)


@pytest.mark.parametrize(
    "value", [MAY_2013 * 1000, f"{MAY_2013 * 1000}", -MAY_2013 * 1000, 253_402_300_800]
)
def test_a_time_in_milliseconds_is_refused(value):
    """Pairs of replies are made of those that are near in time."""
    with pytest.raises(UserError, match=r"expected seconds since 1970 .* milliseconds"):
        fields.timestamp("timestamp", value)
    assert fields.timestamp("timestamp", "9999-12-31T23:59:59Z") == 253_402_300_799


@pytest.mark.parametrize(
    ("values", "truth"),
    [
        ((1, 1.0, True, "1", "True", "true", " TRUE", "yes", "1.0"), 1),
        ((0, 0.0, False, "0", "False", "false", "No", "0.0"), 0),
        ((None, NAN, "", "None", "null", "nan"), None),
    ],
)
def test_truth_values_are_one_zero_or_none(values, truth):
    read = [fields.truth("meta.success", value) for value in values]
    assert read == [truth] * len(values) and not any(isinstance(value, bool) for value in read)


@pytest.mark.parametrize("value", [2, -1, 0.5, "maybe", [], {}, [1]])
def test_what_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(UserError, match=r"meta\.success is .*expected 1, 0, true, false or null"):
        fields.truth("meta.success", value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("anna", "anna"), (5, "5"), (5.0, "5"), ({"id": "anna", "meta": {}}, "anna"), ({"name": 7}, "7"),
        (None, "[deleted]"), (NAN, "[deleted]"), ("", "[deleted]"), (" \x00", "[deleted]"), ({"id": None}, "[deleted]"),
        ("[removed]", "[deleted]"), (" [Deleted] ", "[deleted]"), ("\u200b", "[deleted]"), (" anna\n", "anna"), ("/u/anna", "anna"), ("u/anna", "anna"),
    ],
)  # fmt: skip
def test_speakers_have_names_and_who_has_none_is_a_deleted_account(value, name):
    assert fields.speaker("speaker", value) == name


READ = {
    "integers as ids": {"id": 7, "conversation_id": "t3_a", "reply-to": "a"},
    "decimals as ids": {"id": 7.0},
    "a speaker who is null": {"speaker": None},
    "a speaker as an object": {"speaker": {"id": "ben"}},
    "a time as text": {"timestamp": "2013-05-02T10:00:00Z"},
    "a time that is NaN": {"timestamp": NAN},
    "meta as the text of an object": {"meta": '{"success": "1"}'},
    "success as text": {"meta": {"success": "True"}},
    "success as a truth value": {"meta": {"success": True}},
    "success as a decimal": {"meta": {"success": 1.0}},
}


@pytest.mark.parametrize("values", READ.values(), ids=READ)
def test_a_reply_with_such_values_is_kept(write_corpus, make_cmv, values):
    row = comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1) | values
    processed = make_cmv(write_corpus([POST, row], {"t3_a": META}))
    assert processed.counts["won"] == {"labelled": 1, "kept": 1}
    assert processed.rows[0]["metadata"]["utterance_id"] in ("b", "7")


REFUSED = {
    "an id that is null": ({"id": None}, "id is null; expected an id: text or a whole number"),
    "an id that is blank": ({"id": " "}, 'id is " "; expected an id'),
    "an id that is a truth value": ({"id": True}, "id is true; expected text or a whole number"),
    "a thread that is NaN": ({"conversation_id": NAN}, "conversation_id is null; expected an id"),
    "an answer to a list": ({"reply-to": ["t3_a"]}, "reply-to is a list; expected text"),
    "a speaker as a list": ({"speaker": []}, "speaker is a list; expected a name"),
    "a speaker that is true": ({"speaker": True}, "speaker is true; expected a name"),
    "a text as a number": ({"text": 42}, "text is 42; expected text"),
    "a text as a list": ({"text": ["a", "b"]}, "text is a list; expected text"),
    "a text as an object": ({"text": {"de": "ja"}}, "text is an object; expected text"),
    "a time of words": ({"timestamp": "May"}, 'timestamp is "May"; expected seconds'),
    "meta as a list": ({"meta": [1]}, "meta is a list; expected a JSON object"),
    "meta as words": ({"meta": "{'a': 1}"}, "meta is \"{'a': 1}\"; expected a JSON object"),
    "success of 2": ({"meta": {"success": 2}}, "meta.success is 2; expected 1, 0, true, false"),
}


@pytest.mark.parametrize(("values", "error"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_one_line_with_file_line_and_key(
    write_corpus, make_cmv, values, error
):
    row = comment("t1_b", "t3_a", "ben", "Dogs are loyal.", 1) | values
    folder = write_corpus([POST, row], {"t3_a": META})
    with pytest.raises(UserError) as raised:
        make_cmv(folder)
    assert str(raised.value).startswith(f"{folder / 'utterances.jsonl'}, line 2: {error}")


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ([], "its meta is a list; expected a JSON object"),
        ({"op-title": 1984}, "op-title is 1984; expected text"),
        ({"op-title": "CMV: x", "op-text-body": ["a"]}, "op-text-body is a list; expected text"),
        ({"op-title": "CMV: x", "op-userID": True}, "op-userID is true; expected a name"),
    ],
)
def test_a_conversations_meta_is_one_line_with_its_line_and_id(write_corpus, meta, error):
    folder = write_corpus([POST], {})
    path = folder / "conversations.json"
    path.write_text(json.dumps({"t3_z": {}, "t3_a": meta}, indent=1))
    with pytest.raises(UserError) as raised:
        list(read_threads(folder))
    assert str(raised.value).startswith(f"{path}, line 3, conversation a: {error}")


@pytest.mark.parametrize("entry", [None, NAN, {}, {"meta": None}, {"meta": "{}"}, '{"meta": {}}'])
def test_a_conversation_may_have_no_meta(write_corpus, entry):
    folder = write_corpus([POST], {})
    (folder / "conversations.json").write_text(json.dumps({"t3_a": entry}))
    (thread,) = read_threads(folder)
    assert (thread.title, thread.poster) == (None, "op")


def test_byte_order_marks_blank_lines_and_windows_lines_hold_nothing(write_corpus):
    rows = [POST, comment("t1_b", "t3_a", "ben", "Dogs.\r\nAnd cats.", 1)]
    folder = write_corpus(rows, {"t3_a": META})
    plain = list(read_threads(folder))
    lines = (folder / "utterances.jsonl").read_bytes().split(b"\n")
    (folder / "utterances.jsonl").write_bytes(
        b"\xef\xbb\xbf\r\n" + b"\r\n \r\n\r\n".join(lines) + b"\n\n"
    )
    metas = (folder / "conversations.json").read_bytes()
    (folder / "conversations.json").write_bytes(b"\xef\xbb\xbf" + metas + b"\r\n")
    assert list(read_threads(folder)) == plain
    assert plain[0].utterances["b"].text == "Dogs.\nAnd cats."
