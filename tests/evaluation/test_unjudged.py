"""Comparisons that a judge could not judge are in no win rate, and are counted."""

from csv_files import read_csv
from persuasion_rl.evaluation import verdicts as stage_of_verdicts
from persuasion_rl.evaluation.tables import evaluate_win_rates
from persuasion_rl.evaluation.verdicts import evaluate_verdicts
from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.judges.base import Judgment
from response_pairs import SETTINGS, Scripted, row


def test_what_could_not_be_judged_is_in_no_win_rate_but_counted(tmp_path, monkeypatch):
    first = [Judgment("1"), Judgment(None, failure="refused"), Judgment("none"), Judgment("tie")]
    judge = Scripted(*first, *[Judgment("2"), Judgment("2"), Judgment("1"), Judgment("tie")])
    monkeypatch.setattr(stage_of_verdicts, "make_judge", lambda *_, **__: judge)
    players = {}
    for name in ("base", "sft"):
        players[name] = tmp_path / f"{name}.jsonl"
        replies = [{**row(i, "", ""), "response": f"{name} {i}"} for i in range(4)]
        for reply in replies:
            reply["metadata"]["tokens"] = 5
        write_jsonl(players[name], replies)
    verdicts = tmp_path / "verdicts.jsonl"
    evaluate_verdicts(responses=players, judge="scripted", verdicts=verdicts, settings=SETTINGS)
    assert [r.get("excluded") for r in read_jsonl(verdicts)] == [None, "refused", None, None]
    evaluate_win_rates(
        verdicts={"scripted": verdicts}, responses=players, output=tmp_path / "rates.csv",
        draws=100, seed=1,
    )  # fmt: skip
    (rate,) = read_csv(tmp_path / "rates.csv")
    counts = [rate[name] for name in ("wins", "losses", "ties", "undecided")]
    assert counts == ["1", "0", "1", "2"] and rate["win_rate"] == "0.75"
