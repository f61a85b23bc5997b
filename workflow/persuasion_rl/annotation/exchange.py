"""Exports and imports people's answers: JSON lines and CSV to read and to fill in elsewhere, and tasks of Label Studio.

A file has a row for every answer, and a row without an annotator for every unanswered pair, so that an export can be
filled in and imported. Ids of pairs begin with PAIR, since a spreadsheet reads 885394e10 as a number. In CSV so does a text
get an apostrophe that a spreadsheet would take for a formula, a number or a date (`_cell`). "answer" refers to the responses of the row: "1", "2", "tie", "both_bad", "skip" or "flag";
left_response is the one that was on the left.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from persuasion_rl.annotation.plan import (
    ANSWERS,
    FIRST_TIME,
    LEFT,
    PRACTICE,
    REPEAT,
    RIGHT,
    SKIP,
    Answer,
    Plan,
    check_answer,
    known_as,
)
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.files import UserError, read_json, read_numbered, write_jsonl, write_text
from persuasion_rl.records import ResponsePair
from persuasion_rl.tables import read_texts, write_table
from persuasion_rl.text import readable

COLUMNS = [
    *("pair_id", "prompt", "response_1", "response_2", "annotator", "kind", "left_response"),
    *("answer", "confidence", "reason", "seconds", "answered_at"),
]
PAIR = "pair-"
"""What ids of pairs begin with in files; those of earlier exports did not."""
MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)[ ./-]*"
)
TAKEN_FOR_ELSE = re.compile(
    rf"'*+(?:\s*[=+\-@＝＋－＠]|[\t\r]|(?=\D*\d)[\d\s.,:/e%()$€£¥−-]+(?:[ap]m?)?$|(?:true|false)$|\d+[ ./-]*{MONTH}\d*$|{MONTH}\d+$)",
    re.IGNORECASE,
)
"""Texts that a spreadsheet takes for a formula, a number, a truth value or a date, and such texts after apostrophes."""
NUMBER = re.compile(r"[\d.,]+(e[+-]?\d+)?", re.IGNORECASE)
TEXTS = ("prompt", "response_1", "response_2", "annotator", "reason")
NEEDED = ("pair_id", "annotator", "answer")
"""Columns without which a table holds no answers."""
LABEL_STUDIO = """<View>
  <Text name="prompt" value="$prompt"/>
  <Header value="Which reply gives this poster better grounds to think again, by honest means?"/>
  <Pairwise name="better" toName="left,right"/>
  <View style="display: flex">
    <Text name="left" value="$left"/>
    <Text name="right" value="$right"/>
  </View>
  <Choices name="otherwise" toName="left" choice="single" showInline="true">
    <Choice value="tie"/>
    <Choice value="both_bad"/>
    <Choice value="skip"/>
    <Choice value="flag"/>
  </Choices>
  <Choices name="confidence" toName="left" choice="single" showInline="true">
    <Choice value="1" hint="a guess"/>
    <Choice value="2" hint="fairly sure"/>
    <Choice value="3" hint="sure"/>
  </Choices>
  <TextArea name="reason" toName="left" placeholder="Reason, if you like"/>
</View>
"""
"""The labelling interface that the tasks are for."""


def export_answers(
    pool: dict[str, ResponsePair], answers: Iterable[Answer], plan: Plan, file: Path
) -> int:
    """Write pairs and answers as .jsonl, .csv or .json (tasks of Label Studio, with the interface beside them in .xml).

    Args:
        pool: pair id -> response row. Answers to pairs that are no longer in it are written without texts.

    Returns:
        The number of rows, or tasks.

    Raises:
        UserError: the file name has another ending, or another .xml file is in the place of the interface.
    """
    exported = [answer for answer in answers if answer.kind != PRACTICE]
    if file.suffix == ".json":
        tasks, interface = list(_tasks(pool, exported, plan)), file.with_suffix(".xml")
        if interface.exists() and interface.read_bytes() != LABEL_STUDIO.encode():
            raise UserError(
                f"{interface}: is there, and is not the labelling interface that goes beside {file.name}: move it away, or"
                " give the tasks another name"
            )
        write_text(file, json.dumps(tasks, indent=2, ensure_ascii=False) + "\n")
        write_text(interface, LABEL_STUDIO)
        return len(tasks)
    rows = [
        *map(_row, exported),
        *({"pair_id": p} for p in pool.keys() - {a.pair for a in exported}),
    ]
    order = {pair: number for number, pair in enumerate(pool)}
    rows.sort(key=lambda row: order.get(row["pair_id"], len(order)))
    full_rows = [
        dict.fromkeys(COLUMNS)
        | {key: pool[row["pair_id"]][key] for key in TEXTS[:3] if row["pair_id"] in pool}
        | row
        | {"pair_id": PAIR + row["pair_id"]}
        for row in rows
    ]
    if file.suffix == ".jsonl":
        return write_jsonl(file, full_rows)
    if file.suffix == ".csv":
        cells = [row | {key: _cell(row[key]) for key in TEXTS} for row in full_rows]
        write_table(file, cells, COLUMNS)
        return len(full_rows)
    raise UserError(f"{file}: write .jsonl, .csv, or .json for Label Studio")


def _cell(text: str | None) -> str | None:
    """A text in a table that a spreadsheet will open, after an apostrophe if it would be taken for something else."""
    return f"'{text}" if text and TAKEN_FOR_ELSE.match(text) else text


def _from_cell(text: str) -> str:
    """The text in a cell that `_cell` made."""
    return text[1:] if text.startswith("'") and TAKEN_FOR_ELSE.match(text[1:]) else text


def _row(answer: Answer) -> dict:
    values = {key: getattr(answer, key) for key in COLUMNS if hasattr(answer, key)}
    return values | {"pair_id": answer.pair, "answer": _of_response(answer)}


def _of_response(answer: Answer) -> str:
    """The answer for files, which name the response, not the side."""
    if answer.answer not in (LEFT, RIGHT):
        return answer.answer
    return str(answer.left_response if answer.answer == LEFT else 3 - answer.left_response)


def _tasks(pool: dict[str, ResponsePair], answers: list[Answer], plan: Plan) -> Iterator[dict]:
    """Tasks of Label Studio. In a task the order of a pair is random but the same for all annotators, and each answers once.
    So repeats, which have swapped sides, are not in them."""
    for pair, row in pool.items():
        left_response = plan.left("label studio", pair)
        data = {
            "pair_id": PAIR + pair,
            "left_response": left_response,
            "prompt": row["prompt"],
            "left": row[f"response_{left_response}"],
            "right": row[f"response_{3 - left_response}"],
        }
        first_answers = [
            answer for answer in answers if answer.pair == pair and answer.kind == FIRST_TIME
        ]
        yield {
            "data": data,
            "annotations": [_annotation(answer, left_response) for answer in first_answers],
        }


def _annotation(answer: Answer, left_response: int) -> dict:
    """An answer in the format of Label Studio; `left_response` is the response on the left of its task."""
    choice = _of_response(answer)
    if choice in ("1", "2"):
        value = {"selected": LEFT if int(choice) == left_response else RIGHT}
        # A Pairwise tag names itself (label-studio-sdk: PairwiseTag.label).
        result = [{"from_name": "better", "to_name": "better", "type": "pairwise", "value": value}]
    else:
        value = {"choices": [choice]}
        result = [{"from_name": "otherwise", "to_name": "left", "type": "choices", "value": value}]
    if answer.confidence:
        value = {"choices": [str(answer.confidence)]}
        result.append(
            {"from_name": "confidence", "to_name": "left", "type": "choices", "value": value}
        )
    if answer.reason:
        text = {"text": [answer.reason]}
        result.append({"from_name": "reason", "to_name": "left", "type": "textarea", "value": text})
    return {"completed_by": {"email": answer.annotator}, "result": result}


def import_answers(
    pool: dict[str, ResponsePair], store: AnswerStore, file: Path
) -> tuple[int, int]:
    """Add the answers of a file. All rows are read before the first is kept, and existing answers stay.

    Returns:
        The number of new answers, and the number of answers in the file.

    Raises:
        UserError: a row is no answer, its pair is not in the pool, or an annotator answered it otherwise in another row; names
            the number of the row.
    """
    readers = {".jsonl": _from_jsonl, ".csv": _from_csv, ".json": _from_label_studio}
    if file.suffix not in readers:
        raise UserError(f"{file}: .jsonl, .csv, or .json of Label Studio can be read")
    answers, names = [], store.names()
    first: dict[tuple[str, str, str], tuple[str, Answer]] = {}
    for place, row in readers[file.suffix](file):
        try:
            if _is_unanswered(row):
                continue
            answers.append(answer := _answer(row, pool, names))
            key = (answer.annotator, answer.pair, answer.kind)
            other_place, other = first.setdefault(key, (place, answer))
            if _of_response(other) != _of_response(answer):
                raise UserError(f"{answer.annotator} answered this pair otherwise in {other_place}")
            if answer.annotator not in names:
                names.append(answer.annotator)
        except UserError as error:
            raise UserError(f"{file}, {place}: {error}") from None
    return store.add_all(answers), len(answers)


def _is_unanswered(row: dict[str, Any]) -> bool:
    """Whether a row is of a pair that nobody has answered, as an export has it.

    Raises:
        UserError: it has an answer, of which nobody knows whose it is.
    """
    if row.get("annotator") not in (None, ""):
        return False
    if row.get("answer") not in (None, ""):
        raise UserError("an answer without an annotator: write the name of who gave it")
    return True


def _from_jsonl(file: Path) -> Iterator[tuple[str, dict]]:
    return ((f"line {number}", row) for number, row in read_numbered(file))


def _from_csv(file: Path) -> Iterator[tuple[str, dict]]:
    """Rows, numbered as in a spreadsheet, where the header is row 1."""
    todo = "save it as CSV in UTF-8, with the columns of export-answers"
    table = read_texts(file, todo, _separator(file), blank_lines=True)
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise UserError(
            f"{file}, row 1: no column {missing[0]!r}; columns stand apart by commas and are named as export-answers does"
        )
    for number, row in enumerate(table.to_dict("records"), start=2):
        row |= {key: _from_cell(row[key]) for key in TEXTS if key in row}
        yield f"row {number}", {key: value or None for key, value in row.items()}


def _separator(file: Path) -> str:
    """What stands between the columns of a table: a comma, or what spreadsheets of other countries write."""
    with suppress(OSError), file.open(encoding="utf-8-sig", errors="replace") as lines:
        return max(",;\t", key=lines.readline().count)
    return ","


def _from_label_studio(file: Path) -> Iterator[tuple[str, dict]]:
    """Answers in a JSON export of Label Studio; cancelled ones are skips."""
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise UserError(f"{file}: not a list of tasks; export as JSON, not as JSON-MIN or by task")
    for number, task in enumerate(tasks, start=1):
        try:
            data = task["data"]
            task_values = {"pair_id": data["pair_id"], "left_response": data["left_response"]}
            if type(data["left_response"]) is not int or data["left_response"] not in (1, 2):
                raise ValueError(f"left_response is {data['left_response']!r}")
            for annotation in task.get("annotations", []):
                if answer := _annotated(annotation, task_values["left_response"]):
                    yield f"task {number}", task_values | answer
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f"{file}, task {number}: not as Label Studio exports a task of export-answers as JSON"
                f" ({type(error).__name__}: {error})"
            ) from None


def _annotated(annotation: dict, left_response: int) -> dict | None:
    """An annotator's answer to a task, as a row; None if nothing was chosen."""
    by = annotation.get("completed_by")
    annotator = by.get("email") or by.get("id") if isinstance(by, dict) else by
    values = {part["from_name"]: part["value"] for part in annotation["result"]}
    answer = SKIP if annotation.get("was_cancelled") else _chosen(values, left_response)
    if answer is None:
        return None
    numbered = type(annotator) is int
    return {
        "annotator": f"label studio {annotator}" if numbered else annotator,
        "answer": answer,
        "confidence": next(iter(_texts(values, "confidence", "choices")), None),
        "reason": "\n".join(_texts(values, "reason", "text")) or None,
    }


def _texts(values: dict[str, dict], control: str, key: str) -> list[str]:
    """The texts in the value of a control: Label Studio has a list of them, or a single one as it is."""
    texts = values.get(control, {}).get(key) or []
    return [texts] if isinstance(texts, str) else texts


def _chosen(values: dict[str, dict], left_response: int) -> str | None:
    """The answer in the values of a task's controls; None if nothing was chosen."""
    if choices := _texts(values, "otherwise", "choices"):
        return choices[0]
    side = values.get("better", {}).get("selected")
    if side not in (LEFT, RIGHT):
        return None
    return str(left_response if side == LEFT else 3 - left_response)


def _answer(row: dict[str, Any], pool: dict[str, ResponsePair], names: list[str]) -> Answer:
    """A row of a file as an answer, of an annotator among `names` or of a new one.

    Raises:
        UserError: the row is no answer, or is to a pair that is not in the pool.
    """
    pair, choice, kind = (
        str(row.get("pair_id")).strip().removeprefix(PAIR),
        str(row.get("answer")).strip().lower().removesuffix(".0"),
        row.get("kind") or FIRST_TIME,
    )
    if pair not in pool:
        changed = "its responses may have changed"
        if NUMBER.fullmatch(pair):
            changed = "a spreadsheet made a number of it: export anew, where ids begin with letters"
        raise UserError(f"pair {pair!r} is not in this study's pool; {changed}")
    if kind not in (FIRST_TIME, REPEAT):
        raise UserError(f"kind {kind!r}; allowed: {FIRST_TIME}, {REPEAT}")
    left_response = _number(row, "left_response", whole=True)
    left_response = 1 if left_response is None else left_response
    if choice in ("1", "2"):
        choice = LEFT if int(choice) == left_response else RIGHT
    elif choice in (LEFT, RIGHT) or choice not in ANSWERS:
        allowed = ", ".join(["1", "2", *(a for a in ANSWERS if a not in (LEFT, RIGHT))])
        raise UserError(f"answer {choice!r}; allowed: {allowed}")
    reason = _text(row, "reason")
    answer = Answer(
        annotator=known_as(_text(row, "annotator"), names),
        pair=pair,
        kind=kind,
        left_response=left_response,
        answer=choice,
        confidence=_number(row, "confidence", whole=True),
        reason=readable(reason).strip() or None,
        seconds=_duration(row),
        answered_at=_number(row, "answered_at"),
    )
    check_answer(answer)
    return answer


def _text(row: dict[str, Any], key: str) -> str:
    """A field as text; a number is one, and "" is what is empty.

    Raises:
        UserError: the field is something else.
    """
    value = row.get(key)
    if isinstance(value, bool | list | dict):
        raise UserError(f"{key} {value!r} is not a text")
    return "" if value is None else str(value)


def _duration(row: dict[str, Any]) -> float | None:
    """The seconds of an answer; None where they are unknown, or negative, as an earlier version exported them after a clock was
    set back."""
    negative = str(row.get("seconds") or "").strip().startswith("-")
    return None if negative else _number(row, "seconds")


def _number(row: dict[str, Any], key: str, whole: bool = False) -> Any:
    """A field as a number that is not negative; None if it is empty.

    Raises:
        UserError: the field is no such number.
    """
    value = row.get(key)
    if value in (None, ""):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf or (whole and number != int(number)):
        raise UserError(f"{key} {value!r} is not a {'whole ' if whole else ''}number")
    return int(number) if whole else number
