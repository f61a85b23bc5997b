"""Delta pairs: which winner is paired with which loser."""

from collections import Counter

from persuasion_rl.data.corpus import read_threads
from small_corpora import comment


def test_a_pair_is_of_two_persuaders_who_answer_the_same_comment(process_thread):
    processed = process_thread(
        comment("t1_w", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_same", "t3_a", "ben", "Dogs are brave.", 0),
        comment("t1_l", "t3_a", "carl", "No.", 0),
        comment("t1_w2", "t1_l", "dora", "It is so.", 1),
        comment("t1_w3", "t1_w", "eve", "Yes.", 1),
        comment("t1_op", "t1_w", "op", "Hm.", 0),
    )
    (pair,) = processed.pairs
    assert pair == {
        "prompt": processed.by_id["w"]["input_text"],
        "winner": "Dogs are loyal.",
        "loser": "No.",
        "metadata": {"conversation_id": "a", "winner_id": "w", "loser_id": "l"},
    }


def test_each_reply_is_in_one_pair_and_the_loser_is_the_one_nearest_in_length(process_thread):
    processed = process_thread(
        comment("t1_w1", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_w2", "t3_a", "dora", "Dogs are loyal. " * 5, 1),
        comment("t1_l1", "t3_a", "carl", "Cats are better. " * 6, 0),
        comment("t1_l2", "t3_a", "eve", "Cats are clean.", 0),
    )
    losers = {
        pair["metadata"]["winner_id"]: pair["metadata"]["loser_id"] for pair in processed.pairs
    }
    assert losers == {"w1": "l2", "w2": "l1"}
    few = process_thread(
        *(comment(f"t1_w{i}", "t3_a", f"ben{i}", "Dogs are loyal.", 1) for i in range(3)),
        comment("t1_l", "t3_a", "carl", "No.", 0),
    )
    assert len(few.pairs) == 1


def test_among_losers_of_equal_length_the_nearest_in_time_is_paired(process_thread):
    day = 86_400
    processed = process_thread(
        comment("t1_w", "t3_a", "ben", "Dogs are loyal.", 1, timestamp=10 * day),
        comment("t1_l1", "t3_a", "carl", "Cats are purer.", 0, timestamp=1 * day),
        comment("t1_l2", "t3_a", "eve", "Cats are finer.", 0, timestamp="950400"),  # 11 days
        comment("t1_l3", "t3_a", "fay", "Cats are nicer.", 0, timestamp=14 * day),
    )
    assert [pair["metadata"]["loser_id"] for pair in processed.pairs] == ["l2"]


def test_a_loser_that_does_not_fit_is_in_no_pair(process_thread):
    processed = process_thread(
        comment("t1_w", "t3_a", "ben", "Dogs are loyal.", 1),
        comment("t1_l", "t3_a", "carl", "No. " * 90, 0),
        max_tokens=50,
    )
    assert processed.pairs == [] and list(processed.by_id) == ["w"]
    assert processed.counts["lost"] == {"labelled": 1, "response_too_long": 1}


def test_the_pairs_of_the_synthetic_corpus_keep_their_rules(processed_synthetic, synthetic):
    utterances = {u.id: u for t in read_threads(synthetic) for u in t.utterances.values()}
    used = Counter()
    for pair in processed_synthetic.pairs:
        winner, loser = (utterances[pair["metadata"][key]] for key in ("winner_id", "loser_id"))
        assert (winner.meta["success"], loser.meta["success"]) == (1, 0)
        assert winner.reply_to == loser.reply_to and winner.speaker != loser.speaker
        assert pair["metadata"]["conversation_id"] == winner.conversation_id
        used.update([winner.id, loser.id])
    assert set(used.values()) == {1}
