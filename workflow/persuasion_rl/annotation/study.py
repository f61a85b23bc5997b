"""What people who label a study need of it: its pool, practice, the rubric, and whom pairs are given to."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

from persuasion_rl.annotation.store import Plan, pair_id
from persuasion_rl.data.prompts import Turn, context_of, read_chat_template, turns_of
from persuasion_rl.files import UserError, keyed_number, read_json, read_jsonl
from persuasion_rl.study.config import base_folder
from persuasion_rl.tools.compare import recorded_settings

PRACTICE_PAIRS = Path(__file__).parents[3] / "resources/annotation/practice.json"
CLAIMS = 8
"""Claims that the arena offers."""
LONGEST_SHOWN = 120
"""Characters of such a claim."""


@dataclass
class AnnotatedStudy:
    """What people who label a study need of it.

    Args:
        folder: results/{study}.
    """

    folder: Path
    _made: tuple = field(init=False, repr=False)

    def __post_init__(self):
        self._made = self._as_made()

    def _as_made(self) -> tuple:
        """What changes when the pool or the configuration is made anew."""
        files = (self._responses, self.folder / "config.yaml")
        found = [file.stat() if file.is_file() else None for file in files]
        return tuple(one and (one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def current(self) -> "AnnotatedStudy":
        """The study as it is now: itself, or read anew where it was made anew."""
        return self if self._made == self._as_made() else AnnotatedStudy(self.folder)

    @property
    def _responses(self) -> Path:
        return self.folder / "preferences/human_pool_responses.jsonl"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The recorded configuration."""
        return recorded_settings(self.folder)

    @cached_property
    def pool(self) -> dict[str, dict]:
        """The human pool's pairs by their digests."""
        if not self._responses.is_file():
            raise UserError(
                f"{self._responses} is not there: run `snakemake unattended --cores all` for this study first"
            )
        return {pair_id(row): row for row in read_jsonl(self._responses)}

    def refuse_if_simulated(self) -> None:
        """Raises UserError where nobody's labels would be used."""
        if self.settings["labels"]["human"].get("source") == "simulated":
            raise UserError(
                "this study's annotators are simulated, so that no answer of people would be used: set"
                " labels.human.source: people and run `snakemake unattended --cores all` (the arena is open: `annotate --arena`)"
            )

    @cached_property
    def practice(self) -> dict[str, dict]:
        """Pairs with what we would say, by their digests."""
        return {pair_id(row): row for row in read_json(PRACTICE_PAIRS)}

    @cached_property
    def plan(self) -> Plan:
        human = self.settings["labels"]["human"]
        giving = (human[key] for key in ("overlap", "several", "repeats"))
        return Plan(list(self.pool), self.settings["seed"], *giving, practice=tuple(self.practice))

    @cached_property
    def _chat_template(self) -> str | None:
        chat = self.settings["data"]["prompt_format"] == "chat"
        return read_chat_template(Path(base_folder(self.settings))) if chat else None

    def context(self, row: dict) -> str:
        """What a row's responses answer."""
        source, form = row["metadata"]["source"], self.settings["data"]["prompt_format"]
        return context_of(row["prompt"], source, form, self._chat_template)

    @cached_property
    def rubric(self) -> str:
        """What people judge by, which is what a language model is told, without how it is to answer."""
        text = Path(self.settings["llm"]["rubric"]).read_text(encoding="utf-8")
        return text.split("\nYour verdict:")[0].strip()

    @cached_property
    def claims(self) -> dict[str, list[Turn]]:
        """Claims of the held-out prompts to be picked in the arena, with their turns."""
        path = self.folder / "preferences/final_eval_prompts.jsonl"
        rows = list(read_jsonl(path)) if path.is_file() else []
        found = {}
        for row in sorted(rows, key=lambda row: keyed_number("claims", row["prompt"])):
            turns = turns_of(self.context(row))
            if len(turns) == 2:
                found.setdefault(shorten(turns[0].text, LONGEST_SHOWN, placeholder=" ..."), turns)
            if len(found) == CLAIMS:
                break
        return found

    @property
    def answers(self) -> Path:
        """The store."""
        return self.folder / "state/human_answers.sqlite"
