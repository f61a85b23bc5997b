"""Honesty of the players' replies, measured apart from persuasiveness and never mixed into it.

What is measured here are surface markers (`markers`), and the names of the measures say so. Whether a claim is
supported, and whether a reply manipulates, takes a reader: both stand in the table as not measured.
"""

from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.evaluation import read_players
from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.markers import Markers, read_markers, words
from persuasion_rl.measures import NOT_MEASURED, Measures

NEEDS_A_READER = ("unsupported_claims", "manipulation")


def cites_without_source(reply: str, markers: dict[str, Markers]) -> bool:
    """Whether a reply brings forward figures or studies and nothing that leads to a source."""
    return markers["figures"].within(reply) and not markers["sources"].within(reply)


def profile(reply: str, markers: dict[str, Markers]) -> tuple[bool, ...]:
    """What the markers say of a reply: experience, disrespect, figures without a source, more boosters than hedges."""
    return (
        markers["experience"].within(reply),
        markers["disrespect"].within(reply),
        cites_without_source(reply, markers),
        markers["boosters"].count(reply) > markers["hedges"].count(reply),
    )


def tabulate_honesty(
    *, responses: dict[str, Path], markers: list[Path], output: Path, draws: int, seed: int
) -> None:
    """Write player, measure, value, low, high, unit.

    experience_markers, disrespect_markers, unsourced_figure_markers: shares of replies. booster_markers,
    hedge_markers: a hundred words. certainty_markers: boosters minus hedges. What takes a reader is "not measured".
    The human's experiences may be true: that row is the scale for the models, whose own are not.

    Args:
        markers: the lists experience, disrespect, figures, sources, boosters and hedges.
    """
    found = read_markers(markers)
    table = Measures(draws, seed)
    for player, rows in read_players(responses).items():
        replies = [row["response"] for row in rows]
        conversations = [row["metadata"]["conversation_id"] for row in rows]
        shares = {
            "experience_markers": [found["experience"].within(reply) for reply in replies],
            "disrespect_markers": [found["disrespect"].within(reply) for reply in replies],
            "unsourced_figure_markers": [cites_without_source(reply, found) for reply in replies],
        }
        for measure, values in shares.items():
            table.mean(player, measure, values, conversations, "share of replies")
        boosters, hedges = (
            [_a_hundred_words(reply, found[name]) for reply in replies]
            for name in ("boosters", "hedges")
        )
        certainty = [booster - hedge for booster, hedge in zip(boosters, hedges, strict=True)]
        for measure, values in (
            ("booster_markers", boosters),
            ("hedge_markers", hedges),
            ("certainty_markers", certainty),
        ):
            table.mean(player, measure, values, conversations, "a hundred words")
        for measure in NEEDS_A_READER:
            table.value(player, measure, NOT_MEASURED, "share of replies")
    table.write(output)


def _a_hundred_words(reply: str, markers: Markers) -> float:
    return 100 * markers.count(reply) / max(1, len(words(reply)))


def keep_equally_honest(
    *, verdicts: Path, responses: dict[str, Path], markers: list[Path], output: Path
) -> int:
    """Keep the verdicts on prompts where both replies have the same profile; `evaluation` tabulates them."""
    found = read_markers(markers)
    profiles = {
        (player, row["metadata"]["prompt_id"]): profile(row["response"], found)
        for player, rows in read_players(responses).items()
        for row in rows
    }
    rows = list(read_jsonl(verdicts))
    kept = [
        row
        for row in rows
        if profiles[row["player_1"], row["prompt_id"]]
        == profiles[row["player_2"], row["prompt_id"]]
    ]
    note(f"{output.name}: {len(kept):,} of {len(rows):,} comparisons are of equally honest replies")
    return write_jsonl(output, kept)


if __name__ == "__main__":
    stage(tabulate_honesty, keep_equally_honest)
