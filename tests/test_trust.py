"""The table of trust exposes judges that are planted, and measures agreement with people and among them."""

import random
from pathlib import Path

import pytest

from persuasion_rl import trust
from persuasion_rl.files import read_csv, write_csv, write_jsonl
from persuasion_rl.judges import (
    FIRST,
    SECOND,
    TIE,
    Comparison,
    Judge,
    LengthJudge,
    Opinion,
)
from persuasion_rl.trust import judge_trust


class Planted(Judge):
    """Says what a function of the comparison as shown says."""

    name = "planted"

    def __init__(self, says):
        self._says = says

    def opinions(self, comparisons: list[Comparison]) -> list[Opinion]:
        return [Opinion(self._says(comparison)) for comparison in comparisons]


def reader(comparison: Comparison) -> str:
    """Knows the winners, but calls one in five a tie."""
    if "unclear" in comparison.prompt:
        return TIE
    return FIRST if "because" in comparison.first else SECOND


def longer(comparison: Comparison) -> str:
    return FIRST if len(comparison.first.split()) > len(comparison.second.split()) else SECOND


PLANTED = {
    "reader": Planted(reader),
    "first place": Planted(lambda comparison: FIRST),
    "longer": Planted(longer),
    "length": LengthJudge(),
}


@pytest.fixture
def table(tmp_path, monkeypatch) -> dict[tuple[str, str], dict[str, float]]:
    """The table of trust in the planted judges: 300 pairs whose winner is longer in 60%."""
    draw = random.Random(1)
    pairs, labels = [], []
    for i in range(300):
        winner, loser = (["word"] * draw.randint(20, 21) for _ in range(2))
        (winner if draw.random() < 0.6 else loser).append("more more")
        winner[3] = "because"
        metadata = {"conversation_id": f"c{i // 2}", "prompt_id": f"p{i}"}
        prompt = f"prompt {i}{' unclear' * (i % 5 == 0)}"
        pairs.append(
            {
                "prompt": prompt,
                "winner": " ".join(winner),
                "loser": " ".join(loser),
                "metadata": metadata,
            }
        )
        right, wrong = (FIRST, SECOND) if i % 2 else (SECOND, FIRST)
        votes = [right, right, draw.choice([right, wrong, TIE])]
        labels.append(
            {
                "prompt": prompt,
                "response_1": " ".join(winner if right == FIRST else loser),
                "response_2": " ".join(loser if right == FIRST else winner),
                "metadata": metadata,
                "verdict": draw.choice([right, right, right, TIE]),
                "votes": [{"labeler": f"a{n}", "verdict": vote} for n, vote in enumerate(votes)],
            }
        )
    labels.append({"excluded": "refused", "metadata": {"conversation_id": "c0"}})
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    write_jsonl(tmp_path / "human.jsonl", labels)
    sides = [{"conversation_id": f"c{i}", "side": "test"} for i in range(150)]
    write_csv(tmp_path / "sides.csv", sides, list(sides[0]))
    monkeypatch.setattr(trust, "make_judge", lambda name, *_: PLANTED[name])
    return measured(tmp_path, tmp_path / "trust.csv")


def measured(folder: Path, output: Path) -> dict[tuple[str, str], dict[str, float]]:
    judge_trust(
        judges=list(PLANTED), pairs=folder / "pairs.jsonl", sides=folder / "sides.csv",
        labels={"human": folder / "human.jsonl"}, output=output, draws=500, seed=1, threads=1,
        base=folder, delta_adapter=folder,
    )  # fmt: skip
    return {
        (row["judge"], row["measure"]): {key: float(row[key]) for key in ("value", "low", "high")}
        for row in read_csv(output)
    }


def test_a_judge_that_reads_is_right_whatever_the_place_and_the_length(table):
    right = table["reader", "delta_pairs"]
    assert right["value"] == pytest.approx(0.9)  # one in five is a tie, and half right
    assert right["low"] > table["length", "delta_pairs"]["value"]
    assert table["reader", "flips"]["value"] == 0
    assert table["reader", "first_place"]["value"] == 0.5


def test_a_judge_that_prefers_the_first_place_is_exposed(table):
    assert (
        table["first place", "flips"]["value"] == table["first place", "first_place"]["value"] == 1
    )
    assert table["first place", "flips"]["low"] > 0.95
    assert table["first place", "delta_pairs"]["value"] == 0.5
    assert table["first place", "human_kappa"]["high"] < 0.1


def test_a_judge_that_prefers_the_longer_reply_is_exposed(table):
    assert table["longer", "longer"]["value"] == 1
    assert table["longer", "delta_pairs"]["low"] < 0.6 < table["longer", "delta_pairs"]["high"]
    assert abs(table["reader", "longer"]["value"] - 0.6) < 0.1


def test_agreement_with_people_stands_beside_that_among_people(table):
    assert table["reader", "human_labels"]["value"] > 0.85
    assert 0.3 < table["reader", "human_kappa"]["value"] < 0.7  # its ties are not theirs
    # Two agree, and the third with them one time in three.
    assert 0.2 < table["labellers", "human_alpha"]["value"] < 0.6
    assert table["labellers", "human_alpha"]["low"] > table["first place", "human_kappa"]["high"]


def test_rates_without_variation_are_not_certain(table):
    assert table["first place", "flips"]["low"] < 1


def test_the_same_inputs_give_the_same_bytes(table, tmp_path):
    before = (tmp_path / "trust.csv").read_bytes()
    measured(tmp_path, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == before


def test_only_the_delta_judge_is_known_to_share_weights_with_the_models(table, tmp_path):
    assert {row["shares_weights"] for row in read_csv(tmp_path / "trust.csv")} == {"no"}
    assert trust.SHARES_WEIGHTS["delta"] == "yes"
