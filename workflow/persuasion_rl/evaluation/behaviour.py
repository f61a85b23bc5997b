"""Measures of the players' replies other than win rates: a long table with a row a player and measure.

`evaluate_behaviour` lists all measures; each is defined at the function that computes it.
"""

from pathlib import Path

from persuasion_rl.evaluation.markers import Markers
from persuasion_rl.evaluation.measures import NOT_MEASURED, Measures
from persuasion_rl.evaluation.memorised import SPAN, TrainingText
from persuasion_rl.evaluation.players import read_players
from persuasion_rl.files import read_json
from persuasion_rl.records import KlRow, ReplyRow, SftRow, SimilarityRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.statistics.intervals import bootstrap_rate

REPEATED = 4
"""Words of the n-grams whose repetition is counted."""


def ngrams(text: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def repeated_share(text: list[str]) -> float:
    """The share of a reply's 4-grams that repeat earlier ones: seq-rep-4 of Welleck et al. (2020), on words.

    0 for a reply that is too short to have any.
    """
    grams = ngrams(text, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: list[list[str]], n: int) -> float:
    """The number of distinct n-grams in all texts together, divided by that of all n-grams (Li et al. 2016).

    It falls with more or longer texts, so it has no interval here: a bootstrap draws conversations twice, and every draw
    would have fewer distinct n-grams.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / max(1, len(grams))


def evaluate_behaviour(
    *,
    responses: dict[str, Path],
    train: Path,
    concession: Path,
    output: Path,
    draws: int,
    seed: int,
    losses: dict[str, Path] = {},
    metrics: dict[str, Path] = {},
    kl: dict[str, Path] = {},
    similarities: dict[str, Path] = {},
) -> None:
    """Write the table: player, measure, value, low, high, unit. Measures that a player cannot have have no row.

    Of every player: tokens, words, eos_rate, repeated_4grams, distinct_1, distinct_2, copied_words and
    longest_copied_span (`memorised`), concession_markers (`markers`), similarity_to_human ("not measured" without
    an embedding model). Of models: validation_loss, perplexity (`loss`). Of dpo models: pair_accuracy, and
    kl_a_token, kl_a_reply, log_ratio_a_token, log_ratio_a_reply (`kl`).

    Args:
        train: SftRows of the train side. concession: the list of markers.
        losses: model -> the file of `loss.evaluate_loss`. metrics: dpo model -> its metrics.json.
        kl: dpo model -> its KlRows. similarities: player -> its SimilarityRows.
    """
    players = read_players(responses)
    training_text = TrainingText([row["response"] for row in read_rows(train, SftRow)])
    concessions = Markers(concession)
    table = Measures(draws, seed)
    progress = Progress("behaviour", sum(map(len, players.values())), "replies")
    for player, rows in players.items():
        _length_and_variety(table, player, rows)
        _copied_and_conceded(table, player, rows, training_text, concessions, progress)
        if player in similarities:
            _similarity(table, player, list(read_rows(similarities[player], SimilarityRow)))
        else:
            table.value(player, "similarity_to_human", NOT_MEASURED, "cosine of embeddings")
        if player in losses:
            loss = read_json(losses[player])
            table.value(player, "validation_loss", loss["validation_loss"], "nats a token")
            table.value(player, "perplexity", loss["perplexity"], "a token")
        if player in metrics:
            _accuracy(table, player, read_json(metrics[player]))
        if player in kl:
            _kl(table, player, list(read_rows(kl[player], KlRow)))
        note(f"{player}: measured")
    table.write(output)


def _conversations(rows: list[ReplyRow]) -> list[str]:
    return [row["metadata"]["conversation_id"] for row in rows]


def _length_and_variety(table: Measures, player: str, rows: list[ReplyRow]) -> None:
    texts = [row["response"].split() for row in rows]
    conversations = _conversations(rows)
    for measure, values, unit in (
        ("tokens", [row["metadata"]["tokens"] for row in rows], "tokens a reply"),
        ("words", map(len, texts), "words a reply"),
    ):
        table.mean(player, measure, values, conversations, unit)
    repeated = map(repeated_share, texts)
    unit = "share of a reply's 4-grams"
    table.mean(player, "repeated_4grams", repeated, conversations, unit, bootstrap_rate)
    ends = [row["metadata"]["finish_reason"] == "stop" for row in rows]
    unit = "share of replies that ended by themselves"
    table.mean(player, "eos_rate", ends, conversations, unit, bootstrap_rate)
    table.value(player, "distinct_1", distinct(texts, 1), "share of all words")
    table.value(player, "distinct_2", distinct(texts, 2), "share of all bigrams")


def _copied_and_conceded(
    table: Measures,
    player: str,
    rows: list[ReplyRow],
    training_text: TrainingText,
    concessions: Markers,
    progress: Progress,
) -> None:
    copied = [training_text.copied(row["response"]) for row in progress.over(rows)]
    conversations = _conversations(rows)
    unit = f"share of a reply's words in training spans of {SPAN} words or more"
    shares = [share for share, _ in copied]
    table.mean(player, "copied_words", shares, conversations, unit, bootstrap_rate)
    longest = max((span for _, span in copied), default=0)
    table.value(player, "longest_copied_span", longest, "words, of all replies")
    concedes = [concessions.within(row["response"]) for row in rows]
    unit = "share of replies"
    table.mean(player, "concession_markers", concedes, conversations, unit, bootstrap_rate)


def _similarity(table: Measures, player: str, rows: list[SimilarityRow]) -> None:
    table.mean(
        player,
        "similarity_to_human",
        [row["similarity"] for row in rows],
        [row["conversation_id"] for row in rows],
        "cosine of embeddings",
    )


def _accuracy(table: Measures, player: str, metrics: dict) -> None:
    interval = [metrics.get(f"eval_reward_accuracy{end}", "") for end in ("", "_low", "_high")]
    table.value(
        player, "pair_accuracy", interval[0], "share of held-out pairs of its pool", *interval[1:]
    )


def _kl(table: Measures, player: str, rows: list[KlRow]) -> None:
    conversations = [row["conversation_id"] for row in rows]
    for name in ("kl", "log_ratio"):
        a_token = [row[name] / row["tokens"] for row in rows]
        table.mean(player, f"{name}_a_token", a_token, conversations, "nats a token")
        table.mean(
            player, f"{name}_a_reply", [row[name] for row in rows], conversations, "nats a reply"
        )


if __name__ == "__main__":
    stage(evaluate_behaviour)
