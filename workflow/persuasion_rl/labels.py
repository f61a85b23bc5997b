"""Labels response pairs: by a judge, by simulated annotators, or by people.

A label row is a response row with "verdict" ("1", "2", "tie", "none"), "labeler" and "votes", which have a "reason"
where one was given. A pair of which no answer could be had is {"excluded": reason, "metadata"}.
"""

import math
from collections import Counter
from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import UserError, keyed_number, read_jsonl, text_digest, write_jsonl
from persuasion_rl.judges import (
    FIRST,
    NONE,
    SECOND,
    TIE,
    Comparison,
    Judged,
    ScoringJudge,
    judge_both_orders,
    make_judge,
)

VERDICTS = (FIRST, SECOND, TIE, NONE)
OPPOSITE = {FIRST: SECOND, SECOND: FIRST, TIE: TIE, NONE: NONE}


def _comparison(row: dict) -> Comparison:
    return Comparison(row["prompt"], row["response_1"], row["response_2"])


def _which(row: dict) -> tuple:
    """A pair of a pool: its prompt, and the samples where a prompt has more than two."""
    return row["metadata"]["prompt_id"], *row["metadata"].get("samples", (1, 2))


def _write(labels: Path, rows: list[dict]) -> dict[str, int]:
    write_jsonl(labels, rows)
    counts = Counter(row.get("excluded") or row["verdict"] for row in rows)
    note(f"{labels.name}: {dict(sorted(counts.items()))}")
    return dict(counts)


def label_ai(
    *,
    responses: Path,
    labels: Path,
    judge: str,
    noise: float,
    seed: int,
    threads: int,
    base: Path | None = None,
    delta_adapter: Path | None = None,
    device: str = "auto",
    llm: str | None = None,
    asking: str | None = None,
) -> dict[str, int]:
    """Let a judge label a pool in both orders; a share `noise` of its decided verdicts is turned round.

    The noise makes the demo's `truth` judge as fallible as real ones; it is keyed by (seed, prompt id, samples).
    `llm` and `asking` are for the judge llm (`judges.make_judge`).
    """
    if judge == "delta":
        prepare_torch(threads, seed)
        device = pick_device(device)
    rows = list(read_jsonl(responses))
    chosen = make_judge(judge, base, delta_adapter, device, llm, asking)
    judged = judge_both_orders(chosen, [_comparison(row) for row in rows])
    name = chosen.name
    labeler = name if noise == 0 else f"{name}, {noise:.0%} of its verdicts turned round"
    labelled = []
    for row, found in zip(rows, judged, strict=True):
        if found.failure is not None:
            labelled.append({"excluded": found.failure, "metadata": row["metadata"]})
            continue
        turned = keyed_number("label noise", seed, *_which(row)) < noise
        verdict = OPPOSITE[found.verdict] if turned else found.verdict
        votes = _votes(name, found)
        labelled.append({**row, "verdict": verdict, "labeler": labeler, "votes": votes})
    return _write(labels, labelled)


def _votes(name: str, judged: Judged) -> list[dict]:
    """The opinions in both orders; verdicts are told of the pair as given, reasons of the pair as shown."""
    return [
        {"labeler": name, "order": order, "verdict": opinion.verdict}
        | ({"reason": opinion.reason} if opinion.reason is not None else {})
        for order, opinion in zip(("12", "21"), judged.opinions, strict=True)
    ]


def simulate_human_labels(
    *,
    responses: Path,
    labels: Path,
    judge: str,
    annotators: int,
    noise: float,
    tie_margin: float,
    seed: int,
    threads: int,
    base: Path | None = None,
    delta_adapter: Path | None = None,
    device: str = "auto",
) -> dict[str, int]:
    """Simulate annotators who see what a judge sees, through Gaussian noise of their own.

    Each annotator adds noise of standard deviation `noise` to the judge's preference (in [-1, 1]) and
    calls a tie within `tie_margin`; the majority's verdict counts, and without one it is a tie.
    """
    if judge == "delta":
        prepare_torch(threads, seed)
        device = pick_device(device)
    rows = list(read_jsonl(responses))
    chosen = make_judge(judge, base, delta_adapter, device)
    if not isinstance(chosen, ScoringJudge):
        raise UserError(f"judge {judge} gives no preferences that simulated annotators could see")
    preferences = chosen.prefer([_comparison(row) for row in rows])
    labelled = []
    for row, preference in zip(rows, preferences, strict=True):
        votes = []
        for number in range(1, annotators + 1):
            felt = preference + noise * _gaussian("annotator", seed, number, *_which(row))
            vote = TIE if abs(felt) <= tie_margin else FIRST if felt > 0 else SECOND
            votes.append({"labeler": f"simulated_{number}", "verdict": vote})
        labelled.append(
            {**row, "verdict": majority(votes), "labeler": "simulated annotators", "votes": votes}
        )
    return _write(labels, labelled)


def _gaussian(*key: object) -> float:
    """A standard normal number that is a function of `key` (Box-Muller)."""
    radius = math.sqrt(-2 * math.log(1 - keyed_number("radius", *key)))
    return radius * math.cos(2 * math.pi * keyed_number("angle", *key))


def majority(votes: list[dict]) -> str:
    """The verdict that more than half of the votes give; without one a tie. Skips do not count."""
    counts = Counter(vote["verdict"] for vote in votes if vote["verdict"] != NONE)
    if not counts:
        return NONE
    verdict, most = counts.most_common(1)[0]
    return verdict if 2 * most > counts.total() else TIE


def export_human_labels(
    *, responses: Path, answers: Path, labels: Path, min_labels: int
) -> dict[str, int]:
    """Join people's answers with the responses that they were given for.

    `answers` is JSON lines: {"pair_id", "annotator", "verdict"}, where `pair_id` is that of `pair_id()`,
    so that an answer never attaches to another text.
    """
    rows = list(read_jsonl(responses))
    given: dict[str, list[dict]] = {}
    for number, answer in enumerate(read_jsonl(answers) if answers.is_file() else (), 1):
        if missing := {"pair_id", "annotator", "verdict"} - answer.keys():
            raise UserError(f"{answers}, line {number}: no {', '.join(sorted(missing))}")
        if answer["verdict"] is None:  # a row of the sheet that nobody has filled in yet
            continue
        if answer["verdict"] not in VERDICTS:
            raise UserError(
                f"{answers}, line {number}: verdict {answer['verdict']!r}; allowed: {', '.join(VERDICTS)}"
            )
        vote = {"labeler": answer["annotator"], "verdict": answer["verdict"]}
        given.setdefault(answer["pair_id"], []).append(vote)
    labelled = [
        {**row, "verdict": majority(votes), "labeler": "people", "votes": votes}
        for row in rows
        if (votes := given.get(pair_id(row)))
    ]
    needed = min(min_labels, len(rows))
    if len(labelled) < needed:
        raise UserError(
            f"{len(labelled)} of {len(rows)} pairs have an answer and {needed} are needed"
            f" (labels.human.min_labels): put answers into {answers}, or build what needs no person with"
            " `snakemake unattended`"
        )
    return _write(labels, labelled)


def pair_id(row: dict) -> str:
    """What identifies a pair: its prompt and both texts."""
    return text_digest(row["prompt"], row["response_1"], row["response_2"])


def human_sheet(*, responses: Path, sheet: Path) -> int:
    """Write a sheet for annotators: {"pair_id", "prompt", "response_1", "response_2", "verdict": null}."""
    keys = ("prompt", "response_1", "response_2")
    return write_jsonl(
        sheet,
        (
            {
                "pair_id": pair_id(row),
                **{key: row[key] for key in keys},
                "annotator": None,
                "verdict": None,
            }
            for row in read_jsonl(responses)
        ),
    )


if __name__ == "__main__":
    stage(label_ai, simulate_human_labels, export_human_labels, human_sheet)
