"""The language model reads replies for honesty, and the readings are tabulated."""

import json

import yaml

from csv_files import read_csv
from llm_jobs import (
    settings_of,
)
from llm_server import (
    junk,
    refuses,
)
from persuasion_rl.evaluation.honesty import READ, evaluate_honesty, keep_equally_honest
from persuasion_rl.evaluation.read_honesty import read_honesty
from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.records import ReadingRow, read_rows
from running import ROOT, succeed

HONESTY = ROOT / "resources/rubrics/honesty.md"


NOTHING = dict.fromkeys(READ, False)


def read_reply(request, attempt):
    """Answer by the words of the reply."""
    reply = request.data["reply"]
    if "refuse" in reply:
        return refuses
    if "odd" in reply:
        return junk(json.dumps({"reason": "r", "manipulation": True}))
    return junk(json.dumps({"reason": "r", **NOTHING, "manipulation": "fear" in reply}))


def test_replies_are_read_one_by_one_and_unread_ones_are_in_no_share(server, tmp_path):
    server.behave = read_reply
    settings = settings_of(server, tmp_path, rubric=HONESTY, retries=1)
    replies = {
        "base": ["fear it", "plain", "refuse", "odd"],
        "sft": ["fear this", "fear", "so", "x"],
    }
    files = {"responses": {}, "readings": {}}
    for player, texts in replies.items():
        rows = [
            {"prompt": f"Poster: {i}", "response": text,
             "metadata": {"prompt_id": f"p{i}", "conversation_id": f"c{i}"}}
            for i, text in enumerate(texts)
        ]  # fmt: skip
        for kind in files:
            files[kind][player] = tmp_path / f"{kind}-{player}.jsonl"
        write_jsonl(files["responses"][player], rows)
        read_honesty(
            responses=files["responses"][player],
            output=files["readings"][player],
            settings=settings,
        )
    rows = list(read_rows(files["readings"]["base"], ReadingRow))
    booleans = {name for name, kind in ReadingRow.__annotations__.items() if kind is bool}
    assert booleans == {*READ}
    assert [row.get("excluded") for row in rows] == [None, None, "refused", "unparsable"]
    assert rows[0] == {
        "prompt_id": "p0",
        "conversation_id": "c0",
        "reason": "r",
        **NOTHING,
        "manipulation": True,
    }
    request = server.requests[0]
    assert request.data.keys() == {"conversation", "reply"} and "honest with the poster" in str(
        request.body
    )

    markers = sorted((ROOT / "resources/markers").glob("*.txt"))
    table = tmp_path / "honesty.csv"
    evaluate_honesty(**files, markers=markers, output=table, draws=200, seed=1)
    values = {(row["player"], row["measure"]): row["value"] for row in read_csv(table)}
    assert float(values["base", "manipulation"]) == 0.5 == float(values["base", "unread"])
    assert float(values["sft", "manipulation"]) == 0.5 and float(values["sft", "disrespect"]) == 0

    verdicts, equally_honest = tmp_path / "verdicts.jsonl", tmp_path / "kept.jsonl"
    games = [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i}"}
        | {"player_1": "base", "player_2": "sft", "verdict": "1"}
        for i in range(4)
    ]
    write_jsonl(verdicts, games)
    keep_equally_honest(**files, verdicts=verdicts, markers=markers, output=equally_honest)
    assert [row["prompt_id"] for row in read_jsonl(equally_honest)] == ["p0"]


def test_a_study_with_the_judge_llm_has_every_player_read(tmp_path):
    study = {"extends": str(ROOT / "tests/small.yaml"), "study": "small", "evaluation": {"judges": ["llm", "delta", "length"]},
             "llm": {"model": "tiny", "base_url": "http://127.0.0.1:9/v1", "requests_per_minute": 5,
                     "temperature": None, "prices": {"input": 1, "output": 2.5}}}  # fmt: skip
    config = tmp_path / "read.yaml"
    config.write_text(yaml.safe_dump(study))
    plan = succeed("evaluation", "-n", "-p", "--configfile", config).replace("\\\n", " ")
    commands = [line for line in plan.splitlines() if "evaluation.read_honesty" in line]
    assert len(commands) == 7 and all("honesty.md" in line for line in commands)
    for flag in ("requests_per_minute 5", "temperature none", "prices input=1 output=2.5"):
        assert f"--llm_{flag}" in commands[0]
    assert "honesty_rubric" not in commands[0]
    (table_command,) = [line for line in plan.splitlines() if "honesty evaluate_honesty" in line]
    assert "rlaif=results/small/evaluation/readings/rlaif.jsonl" in table_command
