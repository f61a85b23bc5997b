"""A study as its annotators need it: pool, practice, rubric, and the plan of pairs."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten

from persuasion_rl.annotation.plan import Plan, pair_id
from persuasion_rl.data.contexts import Turn, turns_of
from persuasion_rl.files import UserError, keyed_number, read_json
from persuasion_rl.prompts.templates import read_format
from persuasion_rl.prompts.wording import PLAIN, PromptFormat
from persuasion_rl.records import PoolRow, ResponsePair, read_rows
from persuasion_rl.study.config import Config
from persuasion_rl.study.recorded import (
    IN_CHECKOUT,
    command_for,
    recorded_base,
    recorded_config,
)

PRACTICE_PAIRS = Path("resources/annotation/practice.json")
"""Relative to the checkout, in which persuasion-rl runs."""
CLAIMS = 8
"""The number of claims that the arena offers."""
LONGEST_CLAIM_LINE = 120
"""The most characters of such a claim."""


@dataclass
class AnnotatedStudy:
    """A study as its annotators need it.

    Args:
        folder: results/{study}.
    """

    folder: Path
    _state: tuple = field(init=False, repr=False)

    def __post_init__(self):
        self._state = self._file_state()

    def _file_state(self) -> tuple:
        """A value that changes when the pool or the configuration is made anew."""
        files = (self._responses, self.folder / "config.yaml")
        stats = [file.stat() if file.is_file() else None for file in files]
        return tuple(stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def current(self) -> "AnnotatedStudy":
        """The current state of the study: this object, or a new one if its files were made anew."""
        return self if self._state == self._file_state() else AnnotatedStudy(self.folder)

    @property
    def _responses(self) -> Path:
        return self.folder / "preferences/human_pool_responses.jsonl"

    @cached_property
    def config(self) -> Config:
        """The recorded configuration of the study."""
        return recorded_config(self.folder)

    @cached_property
    def pool(self) -> dict[str, ResponsePair]:
        """The human pool's pairs by their digests.

        Raises:
            UserError: the pool is not made yet, or its file is broken.
        """
        if not self._responses.is_file():
            raise UserError(f"{self._responses} is not there: run {self._making} first")
        return {pair_id(row): row for row in read_rows(self._responses, ResponsePair)}

    @property
    def _making(self) -> str:
        return command_for(self.folder.name, "unattended --cores all")

    def refuse_if_simulated(self) -> None:
        """UserError if the study does not use answers of people."""
        if self.config.labels.human.source == "simulated":
            raise UserError(
                "this study's annotators are simulated, so that no answer of people would be used: set"
                f" labels.human.source: people and run {self._making} (the arena is open: `annotate --arena`)"
            )

    @cached_property
    def practice(self) -> dict[str, dict]:
        """Practice pairs by their digests, each with our own answer ("expected") and its reason ("feedback").

        Raises:
            UserError: the current folder is not the checkout.
        """
        _refuse_elsewhere(PRACTICE_PAIRS)
        return {pair_id(row): row for row in read_json(PRACTICE_PAIRS)}

    @cached_property
    def plan(self) -> Plan:
        """The plan of which annotators get the pairs of the pool."""
        human = self.config.labels.human
        shares = (human.overlap, human.several, human.repeats)
        return Plan(list(self.pool), self.config.seed, *shares, practice=tuple(self.practice))

    @cached_property
    def _format(self) -> PromptFormat:
        if self.config.data.prompt_format == PLAIN.name:
            return PLAIN
        return read_format(recorded_base(self.folder, self.config), "chat")

    def context(self, row: ResponsePair | PoolRow) -> str:
        """The conversation that a row's responses answer, without the frame of the prompt."""
        return self._format.context_of(row["prompt"], row["metadata"]["source"])

    @cached_property
    def rubric(self) -> str:
        """The rubric for people: that of the judge llm, without the form of its answer.

        Raises:
            UserError: the current folder is not the checkout.
        """
        path = Path(self.config.llm.rubric)
        _refuse_elsewhere(path)
        text = path.read_text(encoding="utf-8")
        return text.split("\nYour verdict:")[0].strip()

    @cached_property
    def claims(self) -> dict[str, list[Turn]]:
        """Claims of held-out prompts to offer in the arena: first line -> turns."""
        path = self.folder / "preferences/final_eval_prompts.jsonl"
        rows = list(read_rows(path, PoolRow)) if path.is_file() else []
        claims = {}
        for row in sorted(rows, key=lambda row: keyed_number("claims", row["prompt"])):
            turns = turns_of(self.context(row))
            if len(turns) == 2:
                claims.setdefault(
                    shorten(turns[0].text, LONGEST_CLAIM_LINE, placeholder=" ..."), turns
                )
            if len(claims) == CLAIMS:
                break
        return claims

    @property
    def answers(self) -> Path:
        """The file of people's answers and votes."""
        return self.folder / "state/human_answers.sqlite"


def _refuse_elsewhere(path: Path) -> None:
    """UserError if a file of the checkout is not found from the current folder."""
    if not path.is_file():
        raise UserError(f"{path} is not there: {IN_CHECKOUT}")
