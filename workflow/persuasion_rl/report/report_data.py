"""Writes a page about the data: funnel, lengths, cut contexts, duplicates, topics, splits, random examples."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from persuasion_rl.data.near_duplicates import LARGE_CLUSTER
from persuasion_rl.files import keyed_number, read_json, write_text
from persuasion_rl.records import SftRow, example_id, read_rows
from persuasion_rl.report.plotting import COLORS, bars, page, panels, svg
from persuasion_rl.runtime.command import note, stage

TEMPLATE = Path(__file__).with_name("templates") / "data_report.html.j2"
RANDOM_EXAMPLES = 10
TOPIC_WORDS = 30
CLUSTERS = 20
WHY = {
    "no_root": "every comment answers another one (`reply-to`), or one that is not there",
    "several_roots": "several comments answer nothing",
    "no_utterances": "in conversations.json, without a comment",
    "no_title": "without a title",
    "post_too_large": "the post has more than 1 MB",
    "answered_turn_missing": "a turn answers one that is not there, or the turns answer each other in a circle",
    "turn_missing": "a turn without text",
    "turn_too_large": "a turn of more than 1 MB",
    "no_role": "a turn without a role",
    "labelled": "marked, or found, to have won or lost (PersuasionForGood: said by the persuader)",
    "no_winner_beside": "no winning reply to the same comment, so of no use for a pair",
    "in_another_corpus": "already there, from a corpus that was read before",
    "post_deleted": "the post is deleted or removed",
    "posters_own": "the poster's own comment: the mark stands on the whole thread",
    "missing": "a placeholder for a comment that the corpus lacks",
    "too_large": "has more than 1 MB",
    "deleted": "deleted or removed",
    "bot": "a bot's",
    "moderator": "a moderator's",
    "awards_a_delta_itself": "another reader whose mind was changed",
    "chain_broken": "a comment between it and the post is not in the corpus, or the replies form a circle",
    "answered_comment_missing": "the comment that it answers is deleted, a bot's or not in the corpus",
    "answered_comment_too_large": "the comment that it answers has more than 1 MB",
    "after_the_delta": "below the poster's award: the mind had changed already",
    "empty_after_cleaning": "nothing is left after cleaning",
    "opens_the_dialogue": "answers nothing",
    "response_too_short": "under min_tokens",
    "response_too_long": "over max_tokens",
    "answered_comment_too_long": "the claim and the answered comment alone are over max_context_tokens",
    "over_max_seq_length": "prompt and response together are over max_seq_length",
    "not_selected": "not among the max_p4g_examples that were picked",
    "kept": "rows that can be used",
}
GROUPS = ("won", "lost", "persuader")
"""Groups of candidates in a source's counts; the first one that a source has becomes examples."""
CLEANING = {
    "odd_characters": "control characters, half characters and odd line ends mended",
    "text_too_large": "texts of more than 1 MB left out",
    "html_entities": "HTML entities resolved",
    "footnote": "the moderators' footnote cut",
    "edit_line": "EDIT or UPDATE lines cut",
    "later_edit_of_post": "a post cut below its EDIT line",
    "delta_announcement": "sentences about an awarded delta cut",
    "delta_mark": "delta marks removed",
    "user_name": "user names replaced",
}
STOP_WORDS = set(
    "a about after all also am an and any are as at be because been being believe better but by can cmv could"
    " do does doesn't don't for from get has have having how i i'm if in is isn't it it's its just like make"
    " many more most much my no not of on one only or other our out over people same should shouldn't so some"
    " than that the their them there these they think this those through to too up us very view was we were"
    " what when where which while who why will with would you your".split()
)


@dataclass
class Examples:
    """The content of the page about the examples of a source: ten of them whole, the rest as numbers.

    Attributes:
        response_tokens, context_tokens: lengths of all examples. cut: the number of cut contexts.
        topics: word of a claim -> conversations. random: examples, with the keyed numbers that selected them.
    """

    response_tokens: list[int] = field(default_factory=list)
    context_tokens: list[int] = field(default_factory=list)
    cut: int = 0
    topics: Counter = field(default_factory=Counter)
    random: list[tuple[float, SftRow]] = field(default_factory=list)

    def add(self, row: SftRow, key: float) -> None:
        self.response_tokens.append(row["metadata"]["response_tokens"])
        self.context_tokens.append(row["metadata"]["context_tokens"])
        self.cut += row["metadata"]["context_cut"]
        self.random.append((key, row))
        if len(self.random) > 50:
            self.random = sorted(self.random, key=lambda pair: pair[0])[:RANDOM_EXAMPLES]


def shortage(splits: dict) -> list[str]:
    """Notices about a plan that the data did not allow.

    Args:
        splits: the summary of `data.split`.
    """
    parts = splits["parts"]
    if not any(c["asked"] != "the rest" and c["used"] < c["asked"] for c in parts.values()):
        return []
    numbers = ", ".join(
        f"{part} {c['used']:,} of {c['asked']:,}"
        for part, c in parts.items()
        if c["asked"] != "the rest"
    )
    return [
        "The data is too small for the plan, and all parts are smaller in proportion"
        f" (scale {splits['scale']}): {numbers}. SFT rows to a prompt of the AI pool:"
        f" {splits['sft_to_rlaif']}; of the human pool: {splits['sft_to_rlhf']}."
    ]


def read_examples(path: Path, seed: int) -> Examples:
    """Read the SftRows of one source, one at a time."""
    examples = Examples()
    conversations = set()
    for row in read_rows(path, SftRow):
        examples.add(row, keyed_number("page", seed, example_id(row["metadata"])))
        conversation = row["metadata"]["conversation_id"]
        if conversation not in conversations:
            conversations.add(conversation)
            claim = re.search(r"Claim: (.*)", row["input_text"])
            words = re.findall(r"[a-z][a-z'’-]+", claim[1].lower()) if claim else []
            # Sorted, so that words with equal counts always have the same order.
            examples.topics.update(sorted({word for word in words if word not in STOP_WORDS}))
    examples.random = sorted(examples.random, key=lambda pair: pair[0])[:RANDOM_EXAMPLES]
    return examples


def funnel(source: str, counts: dict[str, dict[str, int]]) -> dict:
    """The funnel of a source as a table: its groups as columns, its steps in order with explanations."""
    groups = [group for group in GROUPS if group in counts]
    names = _steps({name for group in groups for name in counts[group]})
    rows = [
        (
            name.replace("_", " "),
            [counts[group].get(name, 0) for group in groups],
            WHY.get(name, ""),
        )
        for name in names
    ]
    figure = funnel_figure(source, counts)
    conversations, utterances = (
        counts.get(f"left_out_{what}", {}) for what in ("conversations", "utterances")
    )
    left_out = [
        (
            reason.replace("_", " "),
            conversations[reason],
            utterances.get(reason, 0),
            WHY.get(reason, ""),
        )
        for reason in _steps(conversations)
    ]
    return {
        "groups": groups,
        "rows": rows,
        "figure": figure,
        "read": counts["read"],
        "left_out": left_out,
    }


def funnel_figure(source: str, counts: dict[str, dict[str, int]]) -> str:
    """A figure of the candidates for examples that remain after each step."""
    group = next(group for group in GROUPS if group in counts)
    remaining = counts[group]["labelled"]
    steps = [("labelled", remaining)]
    for name in _steps(counts[group]):
        if name not in ("labelled", "kept") and counts[group][name]:
            remaining -= counts[group][name]
            steps.append((f"without: {name.replace('_', ' ')}", remaining))
    return bars(f"The funnel: {source}", steps, f"comments left ({group})")


def _steps(names: Iterable[str]) -> list[str]:
    """Names of a funnel's steps in their order."""
    return sorted(
        names, key=lambda name: (list(WHY).index(name) if name in WHY else len(WHY) - 2, name)
    )


def lengths_figure(examples: dict[str, Examples]) -> str:
    """Histograms of the lengths of responses and contexts, one color a source."""
    figure, all_axes = panels(2, 4.5, 2.6)
    for axis, key in zip(all_axes, ("response_tokens", "context_tokens"), strict=True):
        longest = max(max(getattr(e, key), default=1) for e in examples.values())
        for color, (source, e) in zip(COLORS, examples.items(), strict=False):
            values = getattr(e, key)
            shares = [1 / len(values)] * len(values)
            axis.hist(
                values,
                bins=40,
                range=(0, longest),
                weights=shares,
                color=color,
                alpha=0.6,
                label=source,
            )
        axis.set_xlabel(key.replace("_", " "))
        axis.set_ylabel("share of the examples")
    if len(examples) > 1:
        all_axes[0].legend(frameon=False)
    figure.tight_layout()
    return svg(figure)


def length_rows(source: str, e: Examples) -> list[dict]:
    """Median and 95th percentile of a source's lengths."""
    return [
        {
            "source": source,
            "length": key.replace("_", " "),
            "median": int(statistics.median(values)),
            "95th percentile": sorted(values)[int(0.95 * (len(values) - 1))],
            "longest": max(values),
        }
        for key in ("response_tokens", "context_tokens")
        if (values := getattr(e, key))
    ]


def report_data(
    *,
    counts: dict[str, Path],
    examples: dict[str, Path],
    summary: Path,
    duplicates: Path,
    study: str,
    seed: int,
    synthetic: bool,
    output: Path,
) -> None:
    """Write the page.

    Args:
        counts, examples: source ("cmv", "p4g") -> the files of the rules process_cmv and process_p4g.
        summary, duplicates: the files of the rules split and assign_sides.
        synthetic: whether the corpora come from the grammar of the demo.
    """
    splits, near_duplicates = read_json(summary), read_json(duplicates)
    examples_by_source = {source: read_examples(path, seed) for source, path in examples.items()}
    processing = {source: read_json(path) for source, path in counts.items()}
    large = [c for c in near_duplicates["near_duplicates"] if c["share"] > LARGE_CLUSTER]
    notices = ["Synthetic data: posts, replies and deltas come from a small grammar."] * synthetic
    notices += shortage(splits)
    notices += [
        f"A cluster of near-duplicates holds {c['share']:.1%} of all conversations: {c['title']}"
        for c in large
    ]
    text = page(
        TEMPLATE,
        study=study,
        notices=notices,
        funnels={source: funnel(source, numbers) for source, numbers in processing.items()},
        cleaning={
            source: [
                (CLEANING.get(rule, rule), numbers["cleaned"][rule])
                for rule in [*CLEANING, *sorted(numbers["cleaned"].keys() - CLEANING.keys())]
                if numbers["cleaned"].get(rule)
            ]
            for source, numbers in processing.items()
        },
        made={source: numbers["made"] for source, numbers in processing.items()},
        lengths=[row for source, e in examples_by_source.items() for row in length_rows(source, e)],
        lengths_figure=lengths_figure(examples_by_source),
        cut={source: (e.cut, len(e.response_tokens)) for source, e in examples_by_source.items()},
        splits=splits,
        duplicates=near_duplicates,
        clusters=near_duplicates["near_duplicates"][:CLUSTERS],
        topics={
            source: bars(
                f"Topics: {source}",
                e.topics.most_common(TOPIC_WORDS),
                "conversations whose claim has the word",
            )
            for source, e in examples_by_source.items()
            if source == "cmv" and e.topics
        },
        random={source: [row for _, row in e.random] for source, e in examples_by_source.items()},
    )
    write_text(output, text)
    note(f"{output}: {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
    stage(report_data)
