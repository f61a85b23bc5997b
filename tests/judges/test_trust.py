"""The table of trust exposes planted judges, and measures agreement with people and among people."""

import random
from pathlib import Path

import pytest

from csv_files import read_csv
from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.examples import Budget
from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.judges import judge_trust as trust
from persuasion_rl.judges.base import FIRST, OPPOSITE, SECOND, TIE, Comparison, Judge, Judgment
from persuasion_rl.judges.judge_trust import judge_trust
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.make import JudgeSettings
from persuasion_rl.judges.truth import TruthJudge
from persuasion_rl.report.findings import findings
from persuasion_rl.report.notices import warnings
from persuasion_rl.report.study_tables import Tables
from persuasion_rl.tables import read_table, rows_of, write_table


class Planted(Judge):
    """A judge whose verdict is a function of the comparison in the order shown."""

    name = "planted"

    def __init__(self, verdict):
        self._verdict = verdict

    def judge(self, comparisons: list[Comparison]) -> list[Judgment]:
        return [Judgment(self._verdict(comparison)) for comparison in comparisons]


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
        utterances = {"winner_id": f"w{i}", "loser_id": f"l{i}"}
        prompt = f"prompt {i}{' unclear' * (i % 5 == 0)}"
        pairs.append(
            {
                "prompt": prompt,
                "winner": " ".join(winner),
                "loser": " ".join(loser),
                "metadata": metadata | utterances,
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
                "labeler": "people",
                "votes": [{"labeler": f"a{n}", "verdict": vote} for n, vote in enumerate(votes)],
            }
        )
    labels.append({"excluded": "refused", "metadata": {"conversation_id": "c0"}})
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    write_jsonl(tmp_path / "human.jsonl", labels)
    sides = [{"conversation_id": f"c{i}", "side": "test"} for i in range(150)]
    write_table(tmp_path / "sides.csv", sides, list(sides[0]))
    monkeypatch.setattr(trust, "make_judge", lambda name, settings: PLANTED[name])
    return trust_table(tmp_path, tmp_path / "trust.csv")


def settings_of(folder: Path) -> JudgeSettings:
    """Settings with the delta pairs of a folder."""
    return JudgeSettings(
        seed=1, threads=1, delta_pairs=folder / "pairs.jsonl", sides=folder / "sides.csv"
    )


def trust_table(folder: Path, output: Path, **options) -> dict[tuple[str, str], dict[str, float]]:
    judge_trust(
        judges=list(PLANTED), labels={"human": folder / "human.jsonl"}, output=output, draws=500,
        settings=settings_of(folder), **options,
    )  # fmt: skip
    return {
        (row["judge"], row["measure"]): {key: float(row[key]) for key in ("value", "low", "high")}
        for row in read_csv(output)
    }


def test_a_judge_that_reads_is_right_whatever_the_place_and_the_length(table):
    right = table["reader", "delta_pairs"]
    assert right["value"] == pytest.approx(0.9)  # one in five is a tie, and half right
    above = table["reader", "above_length"]
    assert above["low"] > 0
    assert above["value"] == pytest.approx(right["value"] - table["length", "delta_pairs"]["value"])
    assert table["reader", "flips"]["value"] == 0
    assert table["reader", "first_place"]["value"] == 0.5


def test_a_judge_that_prefers_the_first_place_is_exposed(table):
    assert (
        table["first place", "flips"]["value"] == table["first place", "first_place"]["value"] == 1
    )
    assert table["first place", "flips"]["low"] > 0.95
    assert table["first place", "delta_pairs"]["value"] == 0.5
    assert table["first place", "human_kappa"]["high"] < 0.1
    assert table["first place", "above_length"]["high"] < 0


def test_a_judge_that_prefers_the_longer_reply_is_exposed(table):
    assert table["longer", "longer"]["value"] == 1
    # It differs from the baseline on pairs of as many words only, which that one calls ties.
    assert table["longer", "above_length"]["low"] < 0 < table["longer", "above_length"]["high"]
    assert table["longer", "delta_pairs"]["low"] < 0.6 < table["longer", "delta_pairs"]["high"]
    assert abs(table["reader", "longer"]["value"] - 0.6) < 0.1


def test_agreement_with_people_stands_beside_that_among_people(table, tmp_path):
    """Both kappas are of single people: two give the right verdict, and the third agrees with them one time in three."""
    assert table["reader", "human_labels"]["value"] > 0.85
    judge, people = table["reader", "human_kappa"], table["labellers", "human_kappa"]
    assert 0.2 < judge["value"] < 0.7 and 0.2 < people["value"] < 0.6
    assert people["low"] > table["first place", "human_kappa"]["high"]
    assert not any(measure.endswith("alpha") for _, measure in table)
    # The order of the votes in the file changes nothing.
    rows = list(read_jsonl(tmp_path / "human.jsonl"))
    for row in rows:
        row.get("votes", []).reverse()
    write_jsonl(tmp_path / "human.jsonl", rows)
    reordered = trust_table(tmp_path, tmp_path / "turned.csv")
    for judge in ("labellers", "reader"):
        assert reordered[judge, "human_kappa"] == pytest.approx(table[judge, "human_kappa"])


def test_a_judge_that_is_as_good_as_a_labeller_agrees_as_labellers_do(tmp_path, monkeypatch):
    """A judge that is one more labeller of the same kind has the same kappa as the labellers."""
    draw = random.Random(3)
    pairs = [
        {
            "prompt": f"prompt {i}",
            "winner": "because a",
            "loser": "b",
            "metadata": {"conversation_id": f"c{i}", "winner_id": f"w{i}", "loser_id": f"l{i}"},
        }
        for i in range(2000)
    ]
    noisy = {row["prompt"]: draw.random() < 0.25 for row in pairs}
    labels = [
        {
            "prompt": row["prompt"], "response_1": "because a", "response_2": "b", "verdict": FIRST, "labeler": "people",
            "metadata": row["metadata"],
            "votes": [
                {"labeler": f"a{n}", "verdict": SECOND if draw.random() < 0.25 else FIRST} for n in range(3)
            ],
        }
        for row in pairs
    ]  # fmt: skip
    for label in labels:  # half of the pairs the other way round
        if draw.random() < 0.5:
            label["response_1"], label["response_2"] = label["response_2"], label["response_1"]
            label["verdict"] = OPPOSITE[label["verdict"]]
            for vote in label["votes"]:
                vote["verdict"] = OPPOSITE[vote["verdict"]]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    write_jsonl(tmp_path / "human.jsonl", labels)
    sides = [{"conversation_id": f"c{i}", "side": "test"} for i in range(2000)]
    write_table(tmp_path / "sides.csv", sides, list(sides[0]))

    def peer(comparison: Comparison) -> str:
        return FIRST if ("because" in comparison.first) != noisy[comparison.prompt] else SECOND

    monkeypatch.setattr(trust, "make_judge", lambda *_, **__: Planted(peer))
    table = trust_table(tmp_path, tmp_path / "trust.csv")
    judge, people = table["reader", "human_kappa"], table["labellers", "human_kappa"]
    assert judge["value"] == pytest.approx(people["value"], abs=0.04)
    assert people["value"] == pytest.approx(0.25, abs=0.04)  # (1 - 2 * .25) squared


def test_rates_without_variation_are_not_certain(table):
    assert table["first place", "flips"]["low"] < 1


def test_the_same_inputs_give_the_same_bytes(table, tmp_path):
    before = (tmp_path / "trust.csv").read_bytes()
    trust_table(tmp_path, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == before


def test_shared_weights_are_those_of_the_study(table, tmp_path):
    trust_table(tmp_path, tmp_path / "shared.csv", shared={"reader": "base, sft"})
    shared = {row["judge"]: row["shares_weights"] for row in read_csv(tmp_path / "shared.csv")}
    assert shared.pop("reader") == "base, sft" and set(shared.values()) == {"none"}


@pytest.fixture(scope="module")
def generated(synthetic, tokenizer, tmp_path_factory) -> Path:
    """The delta pairs of a generated ChangeMyView, as the study extracts them, all on the test side."""
    folder = tmp_path_factory.mktemp("generated")
    process_cmv(
        corpora=[synthetic], tokenizer=tokenizer, examples=folder / "examples.jsonl", pairs=folder / "pairs.jsonl",
        counts=folder / "counts.json",
        budget=Budget(min_tokens=20, max_tokens=512, max_context_tokens=300, max_seq_length=900),
    )  # fmt: skip
    names = {row["metadata"]["conversation_id"] for row in read_jsonl(folder / "pairs.jsonl")}
    sides = [{"conversation_id": name, "side": "test"} for name in sorted(names)]
    write_table(folder / "sides.csv", sides, list(sides[0]))
    return folder


def test_planted_judges_are_exposed_on_a_generated_study_in_the_words_of_its_report(
    generated, monkeypatch
):
    """A judge of the place and a judge of the length, beside the delta function itself."""
    kinds = {"truth": TruthJudge(), "length": LengthJudge()}
    kinds |= {"place": PLANTED["first place"], "longer": Planted(longer)}
    monkeypatch.setattr(trust, "make_judge", lambda name, settings: kinds[name])
    judge_trust(
        judges=list(kinds), labels={}, output=generated / "trust.csv", draws=500, settings=settings_of(generated),
    )  # fmt: skip
    rows = rows_of(read_table(generated / "trust.csv"))
    judges = ["truth", "place", "longer", "length"]
    sentences = findings(Tables(trust=rows), judges=judges, ranked_by=[], labelled={})["How sure"]

    def about(judge: str) -> str:
        return " ".join(
            sentence for sentence in sentences if sentence.startswith(f"Judge {judge} ")
        )

    assert "it beats the length baseline" in about("truth")
    assert "changes its answer" not in about("truth") and "prefers a place" not in about("truth")
    assert "it does not clearly beat the length baseline" in about("place")
    assert "changes its answer with the order in 1.000" in about("place")
    assert "prefers a place: 1.000" in about("place")
    assert "it does not clearly beat the length baseline" in about("longer")
    assert "prefers the longer reply in 1.000" in about("longer")
    assert warnings(rows, judges) == []
    (warning,) = warnings(rows, ["place", "longer", "length"])
    assert "no evidence of persuasiveness" in warning
