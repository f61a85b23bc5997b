"""The tables that the stages compute from verdicts, end to end."""

from itertools import combinations

import numpy as np
import pytest

from csv_files import read_csv
from persuasion_rl.evaluation.tables import evaluate_ranking, evaluate_win_rates
from persuasion_rl.files import file_digest, write_jsonl


@pytest.fixture
def tabulate(tmp_path):
    """A function that computes the tables from verdicts: name -> rows."""

    def run(verdicts: list[dict], players: list[str], words=None, **settings) -> dict:
        prompts = {row["prompt_id"]: row["conversation_id"] for row in verdicts}
        responses = {}
        for name in players:
            responses[name] = tmp_path / f"{name}.jsonl"
            write_jsonl(
                responses[name],
                [
                    {"prompt": prompt, "response": "word " * (words(name, prompt) if words else 50),
                     "metadata": {"prompt_id": prompt, "conversation_id": where}}
                    for prompt, where in prompts.items()
                ],
            )  # fmt: skip
        write_jsonl(tmp_path / "judge.jsonl", verdicts)
        common = {"verdicts": {"judge": tmp_path / "judge.jsonl"}, "draws": 500, "seed": 1}
        evaluate_win_rates(responses=responses, output=tmp_path / "win_rates.csv", **common)
        evaluate_ranking(
            players=players,
            ranking=tmp_path / "ranking.csv",
            declared=tmp_path / "comparisons.csv",
            power=tmp_path / "power.csv",
            **common,
            **settings,
        )
        names = ("win_rates", "ranking", "comparisons", "power")
        return {name: read_csv(tmp_path / f"{name}.csv") for name in names}

    return run


def ranking_verdicts(count: int, rates: dict[tuple[str, str], float], seed: int = 1) -> list[dict]:
    """Verdicts of `count` rankings, one per conversation. The first of each pair ranks above the second in the given
    share of them: orders are random, and then swapped one by one until the shares are right."""
    generator = np.random.default_rng(seed)
    players = sorted({name for pair in rates for name in pair})
    orders = [list(generator.permutation(players)) for _ in range(count)]

    def above(pair) -> int:
        return sum(order.index(pair[0]) < order.index(pair[1]) for order in orders)

    def distance() -> int:
        return sum(abs(above(pair) - round(rate * count)) for pair, rate in rates.items())

    current = distance()
    while current:
        which, (one, other) = generator.integers(count), generator.permutation(len(players))[:2]
        order = orders[which]
        order[one], order[other] = order[other], order[one]
        after = distance()
        if after > current:
            order[one], order[other] = order[other], order[one]
        current = min(after, current)
    return [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i}", "player_1": one, "player_2": other,
         "verdict": "1" if order.index(one) < order.index(other) else "2"}
        for i, order in enumerate(orders)
        for one, other in combinations(players, 2)
    ]  # fmt: skip


PUBLISHED = {("base", "sft"): 0.687, ("rlhf", "base"): 0.557, ("rlhf", "rlaif_rlhf"): 0.513}


def test_a_published_run_shows_its_first_difference_only(tabulate):
    """115 rankings of four models with the published pairwise rates, through all stages that read verdicts."""
    comparisons = [":".join(pair) for pair in PUBLISHED]
    models = ["base", "sft", "rlhf", "rlaif_rlhf"]
    tables = tabulate(ranking_verdicts(115, PUBLISHED), models, comparisons=comparisons)
    first, *others = tables["comparisons"]
    for row, rate in zip([first, *others], PUBLISHED.values(), strict=True):
        assert float(row["win_rate"]) == pytest.approx(rate, abs=0.005)
    assert float(first["p_holm"]) < 0.01 and float(first["low"]) > 0.5
    for row in others:
        assert float(row["p_holm"]) > 0.3 and float(row["low"]) < 0.5 < float(row["high"])
    places = {row["player"]: row for row in tables["ranking"]}
    assert sorted(row["rank"] for row in places.values()) == list("1234")
    assert places["sft"]["rank"] == "4" and float(places["sft"]["high"]) < 0
    alone, corrected = tables["power"][-2:]
    assert {alone["judge"], corrected["judge"]} == {"judge"}
    assert (alone["prompts"], alone["comparisons"], corrected["comparisons"]) == ("115", "1", "3")
    assert float(alone["difference"]) == pytest.approx(0.131, abs=1e-3)
    # Three comparisons: the quantile of .05 / 6 instead of that of .05 / 2.
    assert float(corrected["difference"]) == pytest.approx((2.394 + 0.842) / 2 / 115**0.5, abs=1e-3)


def some_verdicts(seed: int = 1) -> list[dict]:
    """Verdicts on three players, with ties and undecided ones, two prompts per conversation."""
    generator = np.random.default_rng(seed)
    verdicts = generator.choice(["1", "2", "tie", "none"], (60, 3), p=[0.5, 0.25, 0.2, 0.05])
    return [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i // 2}", "player_1": one, "player_2": other,
         "verdict": verdict}
        for i, row in enumerate(verdicts.tolist())
        for (one, other), verdict in zip(combinations("abc", 2), row, strict=True)
    ]  # fmt: skip


def test_the_order_of_verdicts_changes_no_table(tabulate):
    verdicts = some_verdicts()
    tables, turned = (
        tabulate(rows, list("abc"), comparisons=["a:b", "c:a"])
        for rows in (verdicts, verdicts[::-1])
    )
    for name, rows in tables.items():
        assert sorted(map(str, rows)) == sorted(map(str, turned[name])), name


def test_swapped_players_mirror_the_tables(tabulate):
    mirror = {"1": "2", "2": "1"}
    verdicts = some_verdicts()
    swapped = [
        row | {"player_1": row["player_2"], "player_2": row["player_1"],
               "verdict": mirror.get(row["verdict"], row["verdict"])}
        for row in verdicts
    ]  # fmt: skip
    one, other = (tabulate(v, list("abc"), comparisons=["a:b"]) for v in (verdicts, swapped))
    assert one["comparisons"] == other["comparisons"]
    assert one["ranking"] == other["ranking"]
    for row, back in zip(one["win_rates"], other["win_rates"], strict=True):
        assert (row["wins"], row["undecided"]) == (back["losses"], back["undecided"])
        for name in ("win_rate", "length_controlled"):
            assert float(row[name]) == pytest.approx(1 - float(back[name]), abs=2e-6)
        assert float(row["low"]) == pytest.approx(1 - float(back["high"]), abs=2e-6)


def test_the_same_seed_writes_the_same_bytes(tabulate, tmp_path):
    def digests():
        tabulate(some_verdicts(), list("abc"), comparisons=["a:b"])
        return [file_digest(path) for path in sorted(tmp_path.glob("*.csv"))]

    assert digests() == digests()


def test_who_was_never_judged_has_no_row(tabulate):
    verdicts = [
        row if row["player_2"] != "c" else row | {"verdict": "none"} for row in some_verdicts()
    ]
    tables = tabulate(verdicts, list("abc"), comparisons=["a:b", "a:c"])
    assert {row["player"] for row in tables["ranking"]} == {"a", "b"}
    assert [row["against"] for row in tables["comparisons"]] == ["b"]
    nothing = tabulate([row | {"verdict": "none"} for row in verdicts], list("abc"))
    assert nothing["ranking"] == nothing["win_rates"] == nothing["comparisons"] == []


def test_seeds_of_a_model_are_pooled_beside_the_single_ones(tabulate):
    tables = tabulate(some_verdicts(), list("abc"), comparisons=["a:c", "b:c"], groups={"b": "a"})
    *single, pooled = tables["comparisons"]
    assert [row["seeds"] for row in single] == ["1", "1"]
    assert (pooled["player"], pooled["against"], pooled["seeds"]) == ("a", "c", "2")
    assert pooled["p"] == pooled["p_holm"] == ""
    width = float(pooled["high"]) - float(pooled["low"])
    assert width > max(float(row["high"]) - float(row["low"]) for row in single)


def test_what_was_excluded_adds_no_power(tabulate):
    """Undecided comparisons add none either: only conversations with a verdict count."""
    verdicts = [row for row in some_verdicts() if row["verdict"] != "none"]
    for row in verdicts:
        if int(row["prompt_id"][1:]) >= 20 and (row["player_1"], row["player_2"]) == ("a", "b"):
            del row["verdict"]
            row["excluded"] = "refused"
    power = tabulate(verdicts, list("abc"), comparisons=["a:b", "a:c"])["power"]
    assert {row["prompts"] for row in power if row["judge"]} == {"10"}
    assert not [row for row in tabulate(verdicts, list("abc"))["power"] if row["judge"]]


def test_a_pooled_row_names_the_side_that_was_trained_once(tabulate):
    groups = {"b": "a"}
    *_, pooled = tabulate(some_verdicts(), list("abc"), comparisons=["a:c", "b:c"], groups=groups)[
        "comparisons"
    ]
    assert pooled["fixed"] == "c"
    *_, single = tabulate(some_verdicts(), list("abc"), comparisons=["a:c"], groups=groups)[
        "comparisons"
    ]
    assert (single["seeds"], single["fixed"]) == ("1", "")


def test_strengths_are_against_the_first_player_that_was_judged(tabulate):
    ranking = tabulate(some_verdicts(), ["nobody", *"abc"])["ranking"]
    assert {row["against"] for row in ranking} == {"a"}
    assert {float(row["strength"]) for row in ranking if row["player"] == "a"} == {0.0}


def test_length_is_counted_in_words_whatever_a_player_counts_as_tokens(tabulate):
    """A judge that mostly prefers more words finds both players equal at equal length."""
    draw = np.random.default_rng(2)
    lengths = {("a", f"p{i}"): int(n) for i, n in enumerate(draw.integers(20, 100, 300))}
    lengths |= {("b", f"p{i}"): int(n) for i, n in enumerate(draw.integers(10, 80, 300))}
    verdicts = [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i}", "player_1": "a", "player_2": "b",
         "verdict": "1" if draw.normal(lengths["a", f"p{i}"] - lengths["b", f"p{i}"], 20) > 0 else "2"}
        for i in range(300)
    ]  # fmt: skip
    (row,) = tabulate(verdicts, ["a", "b"], words=lambda *of: lengths[of])["win_rates"]
    assert float(row["low"]) > 0.55
    assert float(row["length_controlled_low"]) < 0.5 < float(row["length_controlled_high"])


def verdicts_of(games: dict[tuple[str, str], list[str]], conversations: int = 10**6) -> list[dict]:
    """The verdicts of pairs of players, a prompt each; a prompt in each of so many conversations in turn."""
    return [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i % conversations}", "player_1": one, "player_2": other,
         "verdict": verdict}
        for (one, other), verdicts in games.items()
        for i, verdict in enumerate(verdicts)
    ]  # fmt: skip


@pytest.mark.parametrize("conversations", [1, 40])
def test_forty_ties_rank_nobody(tabulate, conversations):
    """As under a judge who always prefers the first place: both orders make a tie of it."""
    pairs = combinations("abc", 2)
    games = {pair: ["tie"] * 40 for pair in pairs}
    tables = tabulate(verdicts_of(games, conversations), [*"abc"], comparisons=["b:a"])
    for row in tables["win_rates"] + tables["comparisons"]:
        assert float(row["win_rate"]) == 0.5
        assert float(row["low"]) < 0.36 and float(row["high"]) > 0.64
    for row in tables["win_rates"]:
        low, high = (float(row[f"length_controlled_{end}"]) for end in ("low", "high"))
        assert low < 0.36 and high > 0.64
    ranking = {row["player"]: row for row in tables["ranking"]}
    assert all((row["rank_low"], row["rank_high"]) == ("1", "3") for row in ranking.values())
    for name in "bc":
        assert float(ranking[name]["strength"]) == 0
        assert float(ranking[name]["low"]) < -0.5 and float(ranking[name]["high"]) > 0.5


def test_who_met_nobody_of_the_first_players_circle_has_empty_cells(tabulate):
    games = {("a", "c"): ["1"] * 30 + ["2"] * 10, ("b", "d"): ["1"] * 20 + ["2"] * 20}
    ranking = tabulate(verdicts_of(games), [*"abcd"])["ranking"]
    assert [row["player"] for row in ranking] == ["a", "c", "b", "d"]
    cells = ("strength", "low", "high", "rank", "rank_low", "rank_high")
    assert all(row[cell] == "" for row in ranking[2:] for cell in cells)
    assert [(row["rank"], row["rank_low"], row["rank_high"]) for row in ranking[:2]] == [
        ("1", "1", "3"),
        ("2", "2", "4"),
    ]
