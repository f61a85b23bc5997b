"""Sides: near-duplicates are found exactly and stay together, and the order of files does not matter."""

import csv
import json
import random
from collections import Counter

import pytest

from persuasion_rl.data import near_duplicates
from persuasion_rl.data.corpus import digests_record
from persuasion_rl.data.near_duplicates import (
    BANDS,
    DEFAULTS,
    MISSED,
    MOST_ROWS,
    NearDuplicateIndex,
    NearDuplicateSettings,
    clusters,
    jaccard,
    rows_of_a_band,
    shingles,
)
from persuasion_rl.data.sides import Shares, assign_sides
from persuasion_rl.files import UserError, read_json, write_json
from persuasion_rl.records import SIDES
from small_corpora import comment


def mutated_texts(seed: int) -> dict[str, str]:
    """Texts of which many are near-duplicates, some just above the threshold and some just below."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(rng.choice((3, 30, 1000)))]
    texts = []
    for _ in range(4):
        words = rng.choices(vocabulary, k=rng.choice((1, 3, 6, 15, 60, 120)))
        for _ in range(5):
            texts.append(" ".join(words))
            words = list(words)
            for _ in range(rng.choice((0, 1, 1, 2, 5))):
                place = rng.choice((0, len(words), rng.randrange(len(words) + 1)))
                words[place : place + rng.randrange(3)] = rng.choices(
                    vocabulary, k=rng.randrange(3)
                )
            words = words or ["w0"]
    rng.shuffle(texts)
    return {f"t{i}": text for i, text in enumerate(texts)}


def near(a: str, b: str) -> bool:
    return jaccard(shingles(a), shingles(b)) >= DEFAULTS.near_duplicate


def partition(cluster_of: dict[str, str]) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for name, cluster in cluster_of.items():
        groups.setdefault(cluster, set()).add(name)
    return {frozenset(group) for group in groups.values()}


SEEDS = range(60)
"""MinHash may miss a pair at the threshold once in ten thousand; with these texts it misses none."""


@pytest.mark.parametrize("words, threshold", [(5, 0.8), (3, 0.5), (1, 0.9)])
def test_the_index_finds_one_of_each_cluster_that_brute_force_finds(words, threshold):
    near_clusters = 0
    for seed in SEEDS:
        index = NearDuplicateIndex(NearDuplicateSettings(words, threshold))
        added = {}
        for name, text in mutated_texts(seed).items():
            cluster_of = index.clusters()
            own = shingles(text, words)
            expected = {other for other in added if jaccard(own, added[other]) >= threshold}
            actual = index.add(name, text)
            assert expected.issuperset(actual)
            assert sorted(map(cluster_of.get, actual)) == sorted(set(map(cluster_of.get, expected)))
            near_clusters += len(actual)
            added[name] = own
    assert near_clusters > 500


def test_of_pairs_at_the_threshold_hardly_any_is_missed():
    """8 of 10 shingles in common; of 2,000 such pairs at most 0.2 are expected to be missed."""
    rng = random.Random(1)
    hits = 0
    for _pair in range(2_000):
        index = NearDuplicateIndex()
        words = [f"{rng.random()}".replace(".", "") for _ in range(14)]  # ten shingles
        index.add("ten", " ".join(words))
        hits += index.add("eight", " ".join(words[:12])) == ["ten"]
    assert hits > 2_000 - 4


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.8, 0.9, 1.0])
def test_bands_are_as_long_as_they_may_be(threshold):
    rows = rows_of_a_band(threshold)

    def missed(rows):
        return (1 - threshold**rows) ** BANDS

    assert missed(rows) <= MISSED
    assert rows == MOST_ROWS or missed(rows + 1) > MISSED


def test_only_equal_posts_are_near_duplicates_at_a_threshold_of_one():
    posts = {"a": "Cats are better.", "b": "cats are BETTER", "c": "Cats are much better."}
    assert clusters(posts.items(), NearDuplicateSettings(near_duplicate=1.0)) == {
        "a": "a",
        "b": "a",
        "c": "c",
    }


def test_clusters_are_the_connected_components():
    for seed in SEEDS:
        texts = mutated_texts(seed)
        expected = {frozenset([name]) for name in texts}
        for a in texts:
            for b in texts:
                if near(texts[a], texts[b]):
                    touched = {group for group in expected if a in group or b in group}
                    expected = expected - touched | {frozenset().union(*touched)}
        cluster_of = clusters(texts.items())
        assert partition(cluster_of) == expected
        assert all(cluster_of[name] == min(group) for group in expected for name in group)


def test_the_threshold_itself_is_a_near_duplicate():
    words = [f"w{i}" for i in range(14)]  # ten shingles
    ten, eight, seven = (" ".join(words[:count]) for count in (14, 12, 11))
    assert jaccard(shingles(ten), shingles(eight)) == DEFAULTS.near_duplicate
    assert clusters([("a", ten), ("b", eight)])["b"] == "a"
    assert clusters([("a", ten), ("c", seven)])["c"] == "c"


def test_case_punctuation_and_layout_make_no_difference():
    text = "Cats, I think, are better than dogs; and they know it well."
    assert shingles(text) == shingles("cats I THINK are\n\nbetter than dogs and they know it well")
    assert shingles("Two words") == {"two words"}


def test_a_post_is_compared_by_its_text_in_each_corpus(write_corpus, tmp_path):
    """Corpora of two people may number their threads alike."""
    texts = {name: " ".join(f"{name}{i}" for i in range(20)) for name in ("cats", "dogs", "cows")}

    def corpus(folder, posts):
        rows = [comment(id_, None, "op", texts[post], thread=id_) for id_, post in posts.items()]
        return write_corpus(rows, {id_: {"op-title": "CMV"} for id_ in posts}, folder)

    folders = [
        corpus("one", {"1": "cats", "2": "cows"}),
        corpus("other", {"1": "dogs", "3": "dogs"}),
    ]
    table = sides(folders, tmp_path / "sides.csv")
    assert {id_: row["cluster"] for id_, row in table.items()} == {"1": "1", "2": "2", "3": "1"}


def test_posts_without_a_word_are_like_no_other():
    """Of emoji only, of marks only, empty. Posts of the same single word are alike."""
    posts = {
        "a": "🐱🐱",
        "b": "🐱🐱",
        "c": "...",
        "d": "",
        "e": "",
        "f": "Cats!",
        "g": "cats",
        "h": "Dogs",
    }
    cluster_of = clusters(posts.items())
    assert partition(cluster_of) == {*map(frozenset, "abcdeh"), frozenset("fg")}
    assert jaccard(shingles(""), shingles("")) == 0


def test_the_tag_of_titles_makes_no_posts_alike():
    posts = {
        "a": "CMV: 🐱",
        "b": "CMV: 🐶",
        "c": "cmv ...",
        "d": "CMV 🐱\ufe0f",
        "e": "CMV: cats",
        "f": "Cats",
    }
    assert partition(clusters(posts.items())) == {*map(frozenset, "abcd"), frozenset("ef")}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Café crème is naïve", "Cafe\u0301 cre\u0300me is nai\u0308ve"),
        ("co\u00adoperate\u200b now", "Cooperate now"),
        ("\ufeffCMV: cats", "CMV: cats"),
        ("हिन्दी में", "हिन्दी, में!"),
    ],
)
def test_the_form_of_a_character_makes_no_difference(one, other):
    assert shingles(one) == shingles(other) != frozenset()


@pytest.mark.parametrize(
    "kind, at_most",
    [("equal", 0), ("nearly equal", 1), ("nearly equal, in groups", 1.5), ("unlike", 0.1)],
)
def test_most_posts_are_compared_with_one_other_however_many_are_alike(monkeypatch, kind, at_most):
    """As "[deleted by user]" is the title of thousands, and a form is filled in by hundreds."""
    compared = []

    def counted(a, b):
        compared.append((a, b))
        return jaccard(a, b)

    monkeypatch.setattr(near_duplicates, "jaccard", counted)
    posts = [(f"p{number:03}", of_kind(kind, number)) for number in range(300)]
    sizes = Counter(clusters(posts).values())
    assert len(compared) <= at_most * len(posts)
    expected = {"unlike": [1] * 300, "nearly equal, in groups": [30] * 10}
    assert list(sizes.values()) == expected.get(kind, [300])


def of_kind(kind: str, number: int) -> str:
    """A post of 200 words."""
    group = {"unlike": number, "nearly equal, in groups": number % 10}.get(kind, 0)
    words = [f"w{group}x{place}" for place in range(200)]
    if kind.startswith("nearly equal"):
        words[number % 200] = f"own{number}"
    return " ".join(words)


def copy_of(thread_rows: list[dict], meta: dict, name: str) -> tuple[list[dict], dict]:
    """The thread under another id, its post with one more word and an EDIT at the end."""
    old = thread_rows[0]["conversation_id"]
    rows = json.loads(json.dumps(thread_rows).replace(old[3:], name[3:]))
    body = meta["op-text-body"].split("\n\n")[0] + " Really.\n\nEDIT: posted again."
    rows[0]["text"] = body
    return rows, meta | {"op-text-body": body}


@pytest.fixture
def reposted(synthetic, write_corpus):
    """The synthetic corpus with every third thread posted twice: the folder, and the first thread of each copy."""
    rows = [json.loads(line) for line in (synthetic / "utterances.jsonl").read_text().splitlines()]
    metas = {
        id_: entry["meta"]
        for id_, entry in json.loads((synthetic / "conversations.json").read_text()).items()
    }
    again = {}
    for number, id_ in enumerate(list(metas)[::3]):
        name = f"t3_again{number:05d}"
        thread = [row for row in rows if row["conversation_id"] == id_]
        copied, metas[name] = copy_of(thread, metas[id_], name)
        rows += copied
        again[name[3:]] = id_[3:]
    return write_corpus(rows, metas, "reposted"), again


def sides(corpora, output, seed=1, shares=(0.8, 0.1, 0.1), official_split="false", **settings):
    """The table of sides by conversation; the clusters of near-duplicates lie beside it."""
    assign_sides(
        corpora=corpora, output=output, duplicates=output.with_suffix(".json"), seed=seed,
        shares=Shares(*shares), official_split=official_split, settings=NearDuplicateSettings(**settings),
    )  # fmt: skip
    with output.open() as table:
        return {row["conversation_id"]: row for row in csv.DictReader(table)}


def test_a_reposted_thread_stands_on_the_side_of_the_first(reposted, tmp_path):
    folder, again = reposted
    table = sides([folder], tmp_path / "sides.csv")
    assert len(table) == 80
    for copy, first in again.items():
        assert table[copy]["cluster"] == table[first]["cluster"]
        assert table[copy]["side"] == table[first]["side"]
    assert len({row["cluster"] for row in table.values()}) == 60
    duplicates = read_json(tmp_path / "sides.json")
    assert duplicates["conversations"] == 80 and duplicates["clusters"] == 60
    assert [cluster["conversations"] for cluster in duplicates["near_duplicates"]] == [2] * 20
    assert {cluster["cluster"] for cluster in duplicates["near_duplicates"]} == set(again)


def test_the_thresholds_are_settings(reposted, tmp_path):
    folder, _again = reposted
    strict = sides([folder], tmp_path / "strict.csv", near_duplicate=1.0)
    assert len({row["cluster"] for row in strict.values()}) == 80
    long = sides([folder], tmp_path / "long.csv", shingle_words=60)
    assert len({row["cluster"] for row in long.values()}) == 80


def test_the_sides_do_not_depend_on_the_order_of_the_files(reposted, tmp_path):
    folder, _ = reposted
    straight = sides([folder], tmp_path / "straight.csv")
    metas = json.loads((folder / "conversations.json").read_text())
    backwards = dict(reversed(metas.items()))
    (folder / "conversations.json").write_text(json.dumps(backwards))
    lines = (folder / "utterances.jsonl").read_text().splitlines(keepends=True)
    (folder / "utterances.jsonl").write_text("".join(reversed(lines)))
    reordered = sides([folder], tmp_path / "reordered.csv")
    side_of = {id_: row["side"] for id_, row in straight.items()}
    assert {id_: row["side"] for id_, row in reordered.items()} == side_of


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.4, 0.2, 0.4), (8, 1, 1)])
def test_the_sides_have_the_shares_asked_for(synthetic, tmp_path, shares):
    table = sides([synthetic], tmp_path / "sides.csv", shares=shares)
    counts = Counter(row["side"] for row in table.values())
    for side, share in zip(("train", "val", "test"), shares, strict=True):
        assert abs(counts[side] - 60 * share / sum(shares)) <= 1


def test_the_seed_decides_and_nothing_else(synthetic, tmp_path):
    first = sides([synthetic], tmp_path / "a.csv", seed=1)
    assert (tmp_path / "a.csv").read_bytes() == (
        sides([synthetic], tmp_path / "b.csv", seed=1) and (tmp_path / "b.csv").read_bytes()
    )
    other = sides([synthetic], tmp_path / "c.csv", seed=2)
    assert {i: row["side"] for i, row in first.items()} != {
        i: row["side"] for i, row in other.items()
    }


def test_a_thread_that_is_in_two_corpora_has_one_side(synthetic, reposted, tmp_path):
    folder, again = reposted
    table = sides([synthetic, folder], tmp_path / "sides.csv")
    assert len(table) == 80
    assert all(table[copy]["side"] == table[first]["side"] for copy, first in again.items())
    assert Counter(row["corpus"] for row in table.values()) == {synthetic.name: 60, "reposted": 20}


def test_a_corpus_that_lies_wholly_in_another_one_changes_nothing(synthetic, reposted, tmp_path):
    folder, _ = reposted
    alone = sides([folder], tmp_path / "alone.csv", official_split="auto")
    both = sides([folder, synthetic], tmp_path / "both.csv", official_split="auto")
    assert both == alone
    assert (
        read_json(tmp_path / "both.json")["official_split"][synthetic.name] == "none in this corpus"
    )


def test_dialogues_without_a_post_stand_alone(write_corpus, tmp_path):
    rows = [
        {"id": f"{d}-{i}", "conversation_id": str(d), "text": "Hello.", "speaker": f"u{i}",
         "reply-to": None if i == 0 else f"{d}-{i - 1}", "timestamp": None, "meta": {"role": i % 2}}
        for d in range(10) for i in range(3)
    ]  # fmt: skip
    folder = write_corpus(rows, {str(d): {"donation_ee": 0.0} for d in range(10)}, "p4g")
    table = sides([folder], tmp_path / "sides.csv", official_split="auto")
    assert len({row["cluster"] for row in table.values()}) == 10
    assert Counter(row["side"] for row in table.values()) == {"train": 8, "val": 1, "test": 1}
    assert read_json(tmp_path / "sides.json")["official_split"] == {"p4g": "none in this corpus"}


def test_a_thread_and_a_dialogue_of_one_id_are_refused(write_corpus, tmp_path):
    """They would be one conversation, on one side and in every interval."""
    row = {"id": "7", "conversation_id": 7, "text": "Cats.", "speaker": "op", "reply-to": None}
    thread = write_corpus([row], {"7": {"title": "CMV: cats"}}, "threads")
    dialogue = write_corpus([row | {"text": "Hello."}], {"7": {}}, "dialogues")
    untitled = write_corpus([row], {"7": {}}, "untitled")
    message = "dialogues/utterances.jsonl, line 1, conversation 7: threads has another conversation of that id"
    with pytest.raises(UserError, match=message):
        sides([thread, dialogue], tmp_path / "sides.csv")
    assert sides([thread, untitled], tmp_path / "sides.csv").keys() == {"7"}


@pytest.fixture
def posts(write_corpus):
    """A function that writes a corpus of posts: (id, text, `train` mark or None)."""

    def write(*posts: tuple, name: str = "posts"):
        rows = [
            {"id": id_, "conversation_id": id_, "text": text, "speaker": "op", "reply-to": None}
            for id_, text, _ in posts
        ]
        metas = {
            id_: {"op-title": f"CMV: {text[:40]}"} | ({} if mark is None else {"train": mark})
            for id_, text, mark in posts
        }
        return write_corpus(rows, metas, name)

    return write


def words_of(number: int, count: int = 30) -> str:
    rng = random.Random(number)
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def marked(held_out: int, others: int) -> list[tuple]:
    numbers = range(held_out + others)
    return [(f"p{n:03}", words_of(n), int(n >= held_out)) for n in numbers]


@pytest.mark.parametrize(
    "held_out, others, shares",
    [(20, 80, (0.8, 0.0, 0.2)), (30, 70, (0.6, 0.2, 0.2)), (20, 80, (0.7, 0.1, 0.2))],
)
def test_the_corpus_own_hold_out_is_kept_where_its_shares_allow(
    posts, tmp_path, held_out, others, shares
):
    folder = posts(*marked(held_out, others))
    table = sides([folder], tmp_path / "sides.csv", shares=shares, official_split="auto")
    assert read_json(tmp_path / "sides.json")["official_split"] == {"posts": "used"}
    counts = Counter(row["side"] for row in table.values())
    assert counts == {
        side: round(100 * share) for side, share in zip(SIDES, shares, strict=True) if share
    }
    for id_, row in table.items():
        not_allowed = "train" if int(id_[1:]) < held_out else "test"
        assert row["side"] != not_allowed


@pytest.mark.parametrize("held_out, others", [(15, 85), (30, 70)])
def test_a_hold_out_that_does_not_allow_the_shares_is_not_used_and_reported(
    posts, tmp_path, capsys, held_out, others
):
    folder = posts(*marked(held_out, others))
    shares = (0.75, 0.05, 0.2)
    table = sides([folder], tmp_path / "sides.csv", shares=shares, official_split="auto")
    outcome = "not used: its shares do not allow data.split"
    assert read_json(tmp_path / "sides.json")["official_split"] == {"posts": outcome}
    assert f"posts: official split {outcome}" in capsys.readouterr().err
    assert table == sides([folder], tmp_path / "free.csv", shares=shares)
    assert Counter(row["side"] for row in table.values()) == {"train": 75, "val": 5, "test": 20}


def test_the_hold_out_is_not_kept_where_the_study_says_so(posts, tmp_path):
    folder = posts(*marked(20, 80))
    table = sides([folder], tmp_path / "sides.csv", shares=(0.7, 0.1, 0.2))
    outcome = "not used: data.official_split is false"
    assert read_json(tmp_path / "sides.json")["official_split"] == {"posts": outcome}
    assert any(row["side"] == "train" for id_, row in table.items() if int(id_[1:]) < 20)


def test_a_near_duplicate_of_a_held_out_post_is_held_out_too(posts, tmp_path):
    """This holds in a corpus without marks too."""
    first = posts(*marked(20, 80), ("p900", words_of(3) + " x", 1), name="first")
    second = posts(("q1", words_of(5) + " y", None), ("q2", words_of(900), None), name="second")
    for seed in range(5):
        table = sides(
            [first, second], tmp_path / "sides.csv", seed, (0.7, 0.1, 0.2), official_split="auto"
        )
        assert table["p900"]["cluster"] == "p003" and table["q1"]["cluster"] == "p005"
        assert table["p900"]["side"] == table["p003"]["side"] in ("val", "test")
        assert table["q1"]["side"] == table["p005"]["side"] in ("val", "test")
    assert read_json(tmp_path / "sides.json")["official_split"] == {
        "first": "used",
        "second": "none in this corpus",
    }


def test_a_large_cluster_is_named_and_no_user_with_it(posts, tmp_path, capsys):
    copies = [(f"c{n}", f"/u/some_one said that {words_of(7)}", None) for n in range(3)]
    pair = [(f"d{n}", words_of(8), None) for n in range(2)]
    folder = posts(*copies, *pair, *((f"p{n}", words_of(n + 20), None) for n in range(195)))
    sides([folder], tmp_path / "sides.csv")
    duplicates = read_json(tmp_path / "sides.json")
    assert [
        (c["cluster"], c["conversations"], c["share"]) for c in duplicates["near_duplicates"]
    ] == [
        ("c0", 3, 0.015),
        ("d0", 2, 0.01),
    ]
    error = capsys.readouterr().err
    assert "cluster c0 holds 1.5% of all conversations: CMV: [user] said that" in error
    assert "cluster d0" not in error, "1% is not above 1%"
    assert "some_one" not in error + (tmp_path / "sides.json").read_text()


def test_a_corpus_that_is_not_as_it_was_downloaded_gets_no_sides(posts, tmp_path):
    folder = posts(*marked(2, 8))
    write_json(digests_record(folder), {"utterances.jsonl": {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(UserError, match="not the file that was downloaded"):
        sides([folder], tmp_path / "sides.csv")
    assert not (tmp_path / "sides.csv").exists()
