"""Answers of people as files: JSON lines and CSV to read and to fill in elsewhere, and tasks of Label Studio.

A file has a row for every answer, and for every pair that nobody has answered one without an annotator, so that what is
exported can be filled in and imported. "answer" is told of the responses as the row has them: "1", "2", "tie", "both_bad",
"skip" or "flag"; left_response is the one that stood on the left.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from persuasion_rl.answers import (
    ANSWERS,
    FIRST_TIME,
    LEFT,
    PRACTICE,
    RIGHT,
    Answer,
    AnswerStore,
    Plan,
)
from persuasion_rl.files import UserError, read_csv, read_json, read_jsonl, write_jsonl, write_text

COLUMNS = (
    *("pair_id", "prompt", "response_1", "response_2", "annotator", "kind", "left_response"),
    *("answer", "confidence", "reason", "seconds", "answered_at"),
)
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
  <TextArea name="reason" toName="left" placeholder="Reason, if you like"/>
</View>
"""
"""The labelling interface that the tasks are for."""


def export_answers(pool: dict[str, dict], answers: Iterable[Answer], plan: Plan, file: Path) -> int:
    """Write pairs and answers as .jsonl, .csv or .json (tasks of Label Studio, with the interface beside them in .xml);
    the number of rows.

    Args:
        pool: pair id -> response row. Answers to pairs that are in it no more are written without texts.
    """
    given = [answer for answer in answers if answer.kind != PRACTICE]
    if file.suffix == ".json":
        tasks = list(_tasks(pool, given, plan))
        write_text(file, json.dumps(tasks, indent=2, ensure_ascii=False) + "\n")
        write_text(file.with_suffix(".xml"), LABEL_STUDIO)
        return len(tasks)
    rows = [*map(_row, given), *({"pair_id": p} for p in pool.keys() - {a.pair for a in given})]
    order = {pair: number for number, pair in enumerate(pool)}
    rows.sort(key=lambda row: order.get(row["pair_id"], len(order)))
    texts = ("prompt", "response_1", "response_2")
    whole = [
        dict.fromkeys(COLUMNS)
        | {key: pool[row["pair_id"]][key] for key in texts if row["pair_id"] in pool}
        | row
        for row in rows
    ]
    if file.suffix == ".jsonl":
        return write_jsonl(file, whole)
    if file.suffix == ".csv":
        lines = io.StringIO()
        table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(whole)
        write_text(file, lines.getvalue())
        return len(whole)
    raise UserError(f"{file}: write .jsonl, .csv, or .json for Label Studio")


def _row(answer: Answer) -> dict:
    told = {key: getattr(answer, key) for key in COLUMNS if hasattr(answer, key)}
    return told | {"pair_id": answer.pair, "answer": _of_response(answer)}


def _of_response(answer: Answer) -> str:
    if answer.answer not in (LEFT, RIGHT):
        return answer.answer
    return str(answer.left_response if answer.answer == LEFT else 3 - answer.left_response)


def _tasks(pool: dict[str, dict], answers: list[Answer], plan: Plan) -> Iterator[dict]:
    """Tasks of Label Studio. There a pair has one order for all annotators: it is drawn for each pair."""
    for pair, row in pool.items():
        left = plan.left("label studio", pair, FIRST_TIME)
        data = {
            "pair_id": pair,
            "left_response": left,
            "prompt": row["prompt"],
            "left": row[f"response_{left}"],
            "right": row[f"response_{3 - left}"],
        }
        own = [answer for answer in answers if answer.pair == pair and answer.kind == FIRST_TIME]
        yield {"data": data, "annotations": [_annotation(answer, left) for answer in own]}


def _annotation(answer: Answer, left: int) -> dict:
    said = _of_response(answer)
    if said in ("1", "2"):
        value = {"selected": LEFT if int(said) == left else RIGHT}
        # A Pairwise tag names itself (label-studio-sdk: PairwiseTag.label).
        result = [{"from_name": "better", "to_name": "better", "type": "pairwise", "value": value}]
    else:
        value = {"choices": [said]}
        result = [{"from_name": "otherwise", "to_name": "left", "type": "choices", "value": value}]
    if answer.reason:
        text = {"text": [answer.reason]}
        result.append({"from_name": "reason", "to_name": "left", "type": "textarea", "value": text})
    return {"completed_by": {"email": answer.annotator}, "result": result}


def import_answers(pool: dict[str, dict], store: AnswerStore, file: Path) -> tuple[int, int]:
    """Add the answers of a file; how many were new, and how many were there already (the first answer stands).

    All rows are read before the first is kept.

    Raises:
        UserError: a row that is no answer, by its number, or a pair that is not in the pool.
    """
    readers = {".jsonl": _from_jsonl, ".csv": _from_csv, ".json": _from_label_studio}
    if file.suffix not in readers:
        raise UserError(f"{file}: .jsonl, .csv, or .json of Label Studio can be read")
    found = []
    for place, row in readers[file.suffix](file):
        try:
            found.append(_answer(row, pool))
        except (UserError, ValueError) as error:
            raise UserError(f"{file}, {place}: {error}") from None
    return store.add_all(found), len(found)


def _from_jsonl(file: Path) -> Iterator[tuple[str, dict]]:
    for number, row in enumerate(read_jsonl(file), start=1):
        if row.get("annotator"):
            yield f"line {number}", row


def _from_csv(file: Path) -> Iterator[tuple[str, dict]]:
    for number, row in enumerate(read_csv(file), start=1):
        if row.get("annotator"):
            yield f"row {number}", {key: value or None for key, value in row.items()}


def _from_label_studio(file: Path) -> Iterator[tuple[str, dict]]:
    """Answers of its JSON export; cancelled ones are skips."""
    for number, task in enumerate(read_json(file), start=1):
        data = task.get("data", {})
        for annotation in task.get("annotations", []):
            by = annotation.get("completed_by")
            who = by.get("email") or by.get("id") if isinstance(by, dict) else by
            said = {part.get("from_name"): part.get("value", {}) for part in annotation["result"]}
            answer = "skip" if annotation.get("was_cancelled") else _chosen(said, data)
            if answer is None:
                continue
            reason = "\n".join(said.get("reason", {}).get("text", [])) or None
            name = who if isinstance(who, str) else f"label studio {who}"
            told = {"annotator": name, "answer": answer, "reason": reason}
            left = {key: data.get(key) for key in ("pair_id", "left_response")}
            yield f"task {number}", left | told


def _chosen(said: dict[str, dict], data: dict) -> str | None:
    if choices := said.get("otherwise", {}).get("choices"):
        return choices[0]
    side, left = said.get("better", {}).get("selected"), data.get("left_response")
    if side not in (LEFT, RIGHT) or left not in (1, 2):
        return None
    return str(left if side == LEFT else 3 - left)


def _answer(row: dict[str, Any], pool: dict[str, dict]) -> Answer:
    pair, said = row.get("pair_id"), str(row.get("answer"))
    if pair not in pool:
        raise UserError(
            f"pair {pair!r} is not in this study's pool; its responses may have changed"
        )
    left = int(row.get("left_response") or 1)
    if said in ("1", "2"):
        said = LEFT if int(said) == left else RIGHT
    elif said in (LEFT, RIGHT) or said not in ANSWERS:
        allowed = ", ".join(["1", "2", *(a for a in ANSWERS if a not in (LEFT, RIGHT))])
        raise UserError(f"answer {said!r}; allowed: {allowed}")

    def number(key: str, kind: type) -> Any:
        return None if row.get(key) in (None, "") else kind(row[key])

    return Answer(
        annotator=str(row["annotator"]).strip(),
        pair=pair,
        kind=row.get("kind") or FIRST_TIME,
        left_response=left,
        answer=said,
        confidence=number("confidence", int),
        reason=row.get("reason") or None,
        seconds=number("seconds", float),
        answered_at=number("answered_at", float),
    )
