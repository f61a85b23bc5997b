"""A table of the labels of the pools: a column a pool, every cell a text."""

from pathlib import Path

from persuasion_rl.files import as_made, read_json
from persuasion_rl.report.judge_findings import interval_text


def label_table(counts: dict[str, Path], pairs: dict[str, Path]) -> list[tuple[str, list[str]]]:
    """Statistics of the labels: rows of a name and one text a pool.

    Args:
        counts: pool -> the counts of `sampling.gather_responses`.
        pairs: pool -> the report of `preferences.preference_pairs`.
    """
    columns = []
    for pool, path in counts.items():
        with as_made(path):
            responses = read_json(path)
            sum(responses.values())
        with as_made(pairs[pool]):
            columns.append(label_column(responses, read_json(pairs[pool])))
    names = columns[0] if columns else []
    return [(name, [column[name] for column in columns]) for name in names]


def label_column(responses: dict, labels: dict) -> dict[str, str]:
    """One pool: row of the table -> its text.

    Args:
        responses: "made" or a fault -> number of prompts, of `sampling.gather_responses`.
        labels: the report of `preferences.preference_pairs`.
    """
    unusable = {reason: count for reason, count in responses.items() if reason != "made"}
    flips, tokens = labels["flips"], labels["mean_tokens"]
    return {
        "prompts": f"{sum(responses.values()):,}",
        "prompts without two usable responses": _counts(unusable),
        "labels": f"{labels['labels']:,}",
        "verdicts": _counts(labels["verdicts"]),
        "could not be labelled": _counts(labels["excluded"]),
        "judge's answers differ with the order": "not asked in both orders"
        if flips is None
        else f"{flips['flipped']:,} of {flips['asked']:,}",
        "votes for the response shown first": _share(labels["first_shown"], "votes"),
        "chosen response is the longer one": _share(labels["longer_chosen"], "labels"),
        "words that the chosen one is longer": interval_text(words_more, form="+.1f")
        if (words_more := labels["words_more"])
        else "none",
        "duplicates dropped": _counts(labels["duplicates"]),
        "pairs": _counts(labels["pairs"]),
        "mean tokens of a pair": "unknown" if tokens is None else f"{tokens:.1f}",
    }


def _counts(counts: dict[str, int]) -> str:
    """Counts by name as text, without zeros."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count) or "none"


def _share(share: dict | None, of: str) -> str:
    """A share with its interval, and the number that it is a share of."""
    return f"{interval_text(share)} of {share['rows']:,} {of}" if share else "none"
