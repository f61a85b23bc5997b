"""Sides: near-duplicates are found exactly, stand together, and no order of files matters."""

import csv
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.sides import NEAR_DUPLICATE, Shingles, assign_sides, clusters, jaccard, shingles


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
    return jaccard(shingles(a), shingles(b)) >= NEAR_DUPLICATE


def partition(cluster_of: dict[str, str]) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for name, cluster in cluster_of.items():
        groups.setdefault(cluster, set()).add(name)
    return {frozenset(group) for group in groups.values()}


@given(st.integers(0, 10**9), st.booleans())
def test_the_index_finds_exactly_what_brute_force_finds(seed, by_rarity):
    texts = mutated_texts(seed)
    rarity = Counter(s for text in texts.values() for s in shingles(text)) if by_rarity else None
    index = Shingles(rarity)
    added = {}
    for name, text in texts.items():
        found = index.near_duplicates(text)
        assert len(found) == len(set(found))
        assert set(found) == {other for other in added if near(text, added[other])}
        index.add(name, text)
        added[name] = text


@given(st.integers(0, 10**9))
def test_clusters_are_the_connected_components(seed):
    texts = mutated_texts(seed)
    expected = {frozenset([name]) for name in texts}
    for a in texts:
        for b in texts:
            if near(texts[a], texts[b]):
                touched = {group for group in expected if a in group or b in group}
                expected = expected - touched | {frozenset().union(*touched)}
    assert partition(clusters(texts)) == expected


def test_the_threshold_itself_is_a_near_duplicate():
    words = [f"w{i}" for i in range(14)]  # ten shingles
    whole, eight, seven = (" ".join(words[:count]) for count in (14, 12, 11))
    assert jaccard(shingles(whole), shingles(eight)) == NEAR_DUPLICATE
    assert clusters({"a": whole, "b": eight})["b"] == "a"
    assert clusters({"a": whole, "c": seven})["c"] == "c"


def test_case_punctuation_and_layout_make_no_difference():
    text = "Cats, I think, are better than dogs; and they know it well."
    assert shingles(text) == shingles("cats I THINK are\n\nbetter than dogs and they know it well")
    assert shingles("Two words") == {"two words"}


def copy_of(thread_rows: list[dict], meta: dict, name: str) -> tuple[list[dict], dict]:
    """The thread again under another id, its post with a word more at the end and an EDIT."""
    old = thread_rows[0]["conversation_id"]
    rows = json.loads(json.dumps(thread_rows).replace(old[3:], name[3:]))
    body = meta["op-text-body"].split("\n\n")[0] + " Really.\n\nEDIT: posted again."
    rows[0]["text"] = body
    return rows, meta | {"op-text-body": body}


@pytest.fixture
def reposted(synthetic, write_corpus):
    """The synthetic corpus with every third thread posted a second time: the folder, and who equals whom."""
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
        again[name] = id_
    return write_corpus(rows, metas, "reposted"), again


def sides(corpora, output, seed=1, shares=(0.8, 0.1, 0.1)):
    assign_sides(
        corpora=corpora, output=output, seed=seed, train=shares[0], val=shares[1], test=shares[2]
    )
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


def test_the_sides_do_not_depend_on_the_order_of_the_files(reposted, tmp_path):
    folder, _ = reposted
    straight = sides([folder], tmp_path / "straight.csv")
    metas = json.loads((folder / "conversations.json").read_text())
    backwards = dict(reversed(metas.items()))
    (folder / "conversations.json").write_text(json.dumps(backwards))
    lines = (folder / "utterances.jsonl").read_text().splitlines(keepends=True)
    (folder / "utterances.jsonl").write_text("".join(reversed(lines)))
    turned = sides([folder], tmp_path / "turned.csv")
    side_of = {id_: row["side"] for id_, row in straight.items()}
    assert {id_: row["side"] for id_, row in turned.items()} == side_of


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


def test_dialogues_without_a_post_stand_alone(write_corpus, tmp_path):
    rows = [
        {"id": f"{d}-{i}", "conversation_id": str(d), "text": "Hello.", "speaker": f"u{i}",
         "reply-to": None if i == 0 else f"{d}-{i - 1}", "timestamp": None, "meta": {"role": i % 2}}
        for d in range(10) for i in range(3)
    ]  # fmt: skip
    folder = write_corpus(rows, {str(d): {"donation_ee": 0.0} for d in range(10)}, "p4g")
    table = sides([folder], tmp_path / "sides.csv")
    assert len({row["cluster"] for row in table.values()}) == 10
    assert Counter(row["side"] for row in table.values()) == {"train": 8, "val": 1, "test": 1}
