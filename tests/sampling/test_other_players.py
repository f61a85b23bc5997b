"""Other players in the workflow: a model that the study does not train, and one on another server."""

import shlex

import pytest
import yaml

from completions_server import asked_for, completion
from persuasion_rl.files import read_jsonl, write_json, write_jsonl
from persuasion_rl.prompts.wording import PLAIN, TASKS
from running import copy_project, snakemake, succeed
from tiny_models import TROUBLE, sft_row, write_scripted_base

STUDY = "results/guests"
CONFIG = "config/guests.yaml"
CONTEXTS = [f"Claim: CMV: {topic} are bad\nPoster: They are loud." for topic in ("cars", "dogs")]


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory):
    return write_scripted_base(tmp_path_factory.mktemp("neighbour"), TROUBLE)


@pytest.fixture
def root(tmp_path, neighbour):
    """A checkout with held-out prompts."""
    root = copy_project(tmp_path / "checkout")
    prompts = [
        {
            "prompt": PLAIN.render(context, "cmv"),
            "metadata": {"prompt_id": f"p{i}", "conversation_id": f"c{i}", "source": "cmv"},
        }
        for i, context in enumerate(CONTEXTS)
    ]
    write_jsonl(root / STUDY / "preferences/final_eval_prompts.jsonl", prompts)
    replies = [sft_row(row["prompt"], "They are useful.") for row in prompts]
    write_jsonl(root / STUDY / "splits/sft_test.jsonl", replies)
    write_json(root / STUDY / "splits/leakage.json", {})
    return root


def write_study(root, neighbour, endpoint="http://127.0.0.1:9/v1", model="big"):
    study = {
        "extends": "../tests/tiny.yaml",
        "study": "guests",
        "models": {"base": {"source": str(neighbour)}},
        "sampling": {"max_new_tokens": 8},
        "llm": {"provider": "openai", "model": model, "base_url": endpoint},
        "evaluation": {
            "players": ["base", "sft", "neighbour", "oracle", "human"],
            "judges": ["llm", "length"],
            "other_players": {
                "neighbour": {"source": str(neighbour), "prompt_format": "plain"},
                "oracle": {"endpoint": endpoint, "served_model": "big"},
            },
        },
    }
    (root / CONFIG).write_text(yaml.safe_dump(study))


def responses(player):
    return f"{STUDY}/evaluation/responses/{player}.jsonl"


def test_a_served_model_and_one_from_a_folder_answer_the_held_out_prompts(
    root, neighbour, start_server
):
    server = start_server(lambda body, times: completion(f"Think of {asked_for(body)[12:16]}."))
    write_study(root, neighbour, server.url)
    rules = ["--allowed-rules", "render_prompts", "evaluate_model"]
    players = ("oracle", "neighbour")
    succeed(*map(responses, players), "--cores", 1, "--configfile", CONFIG, *rules, root=root)
    oracle, own = (list(read_jsonl(root / responses(player))) for player in players)
    assert [row["response"] for row in oracle] == ["Think of cars.", "Think of dogs."]
    assert {row["response"] for row in own} <= {"A", "B", "C" * 8, ""}  # what its script says
    prompts = list(read_jsonl(root / STUDY / "preferences/final_eval_prompts.jsonl"))
    for rows in (oracle, own):
        assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompts]
    for body, context in zip(sorted(server.bodies, key=asked_for), CONTEXTS, strict=True):
        assert (body["model"], body["max_tokens"]) == ("big", 8)
        assert asked_for(body) == f"{context}\n\n{TASKS['cmv']}"


def test_a_served_model_needs_no_gpu_here(root, neighbour, start_server):
    server = start_server(lambda body, times: completion("Think."))
    write_study(root, neighbour, server.url)
    words = ["--cores", 1, "--configfile", CONFIG, "--config", "device=cuda"]
    succeed(responses("oracle"), *words, root=root)
    result = snakemake(responses("neighbour"), *words, root=root, CUDA_VISIBLE_DEVICES="")
    assert result.returncode != 0
    assert "error: evaluate_model: need a GPU (device: cuda)" in result.stdout


@pytest.mark.parametrize(("model", "llm"), [("big", "oracle"), ("other", "unknown")])
def test_a_judge_that_shares_its_first_weights_with_a_player_is_reported(
    root, neighbour, model, llm
):
    """The delta judge begins with the base model's weights, as all models of the study and of the same folder do."""
    write_study(root, neighbour, model=model)
    plan = succeed(f"{STUDY}/judges/trust.csv", "-n", "-p", "--configfile", CONFIG, root=root)
    words = shlex.split(next(line for line in plan.splitlines() if " --shared " in line))
    shared = words[words.index("--shared") + 1 :][:2]
    assert shared == ["delta=base, sft, neighbour", f"llm={llm}"]
