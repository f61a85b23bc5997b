"""The split and its check: sides and pools have nothing in common, and a planted leak is found."""

import json
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError, read_json, read_jsonl, write_csv, write_jsonl
from persuasion_rl.leakage import check_leakage
from persuasion_rl.split import split

SFT = ("train", "val", "test")
POOLS = ("ai", "human", "final_eval")
PLAN = dict(
    train=200,
    val=40,
    test=60,
    use_val_set=True,
    ai_pool_size=60,
    human_pool_size=8,
    final_eval_size=20,
)


def sft_row(
    conversation: str, number: int, prompt: str, source: str = "cmv", response: str = "Yes."
) -> dict:
    return {
        "input_text": prompt,
        "full_text": prompt + response,
        "response": response,
        "metadata": {
            "source": source,
            "conversation_id": conversation,
            "utterance_id": f"{conversation}-{number}",
        },
    }


def write_data(folder: Path, seed: int, conversations: int = 120) -> None:
    """Conversations in clusters on sides, with several replies each, some of them to the same prompt."""
    rng = random.Random(seed)
    table, rows = [], []
    cluster, side = "", ""
    for number in range(conversations):
        name = f"c{number}"
        if number == 0 or rng.random() < 0.7:
            cluster, side = name, rng.choices(SFT, (0.5, 0.2, 0.3))[0]
        table.append({"corpus": "x", "conversation_id": name, "cluster": cluster, "side": side})
        for reply in range(rng.randrange(5)):
            prompt = f"prompt {name} {rng.randrange(3)}"
            rows.append(sft_row(name, reply, prompt, rng.choice(("cmv", "cmv", "cmv", "p4g"))))
    rng.shuffle(rows)
    write_csv(folder / "sides.csv", table, ["corpus", "conversation_id", "cluster", "side"])
    write_jsonl(folder / "examples.jsonl", rows)


def run(folder: Path, out: str = "out", seed: int = 1, **plan) -> dict:
    out_folder = folder / out
    return split(
        examples=[folder / "examples.jsonl"], sides=folder / "sides.csv",
        **{f"sft_{side}": out_folder / f"sft_{side}.jsonl" for side in SFT},
        ai_pool=out_folder / "ai.jsonl", human_pool=out_folder / "human.jsonl",
        final_eval=out_folder / "final_eval.jsonl", summary=out_folder / "summary.json",
        seed=seed, **(PLAN | plan),
    )  # fmt: skip


def check(folder: Path, out: str = "out", pairs: Path | None = None) -> dict[str, int]:
    out_folder = folder / out
    return check_leakage(
        sides=folder / "sides.csv",
        sft={side: out_folder / f"sft_{side}.jsonl" for side in SFT},
        pools={pool: out_folder / f"{pool}.jsonl" for pool in POOLS},
        pairs=pairs,
        output=out_folder / "leakage.json",
    )


def made(folder: Path, name: str) -> list[dict]:
    return list(read_jsonl(folder / "out" / f"{name}.jsonl"))


def sides_of(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    lines = [line.split(",") for line in (folder / "sides.csv").read_text().splitlines()[1:]]
    return {c: side for _, c, _, side in lines}, {c: cluster for _, c, cluster, _ in lines}


@given(
    seed=st.integers(0, 10**9),
    use_val_set=st.booleans(),
    human=st.integers(1, 60),
    final_eval=st.integers(1, 60),
    ai=st.integers(1, 90),
    test=st.integers(10, 90),
)
def test_sides_and_pools_have_nothing_in_common(seed, use_val_set, human, final_eval, ai, test):
    plan = dict(
        use_val_set=use_val_set,
        human_pool_size=human,
        final_eval_size=final_eval,
        ai_pool_size=ai,
        test=test,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, seed)
        try:
            summary = run(folder, **plan)
        except UserError as error:
            assert "pool is empty" in str(error)
            return
        side_of, cluster_of = sides_of(folder)
        clusters_of_pool = defaultdict(set)
        prompts_of_side = {}
        for side in SFT:
            rows = made(folder, f"sft_{side}")
            assert {side_of[row["metadata"]["conversation_id"]] for row in rows} <= {side}
            assert len(rows) == summary[side]["used"] <= (PLAN | plan)[side]
            prompts_of_side[side] = [row["input_text"] for row in rows]
        for side in ("val", "test"):
            assert len(prompts_of_side[side]) == len(set(prompts_of_side[side]))
        held_out = {*prompts_of_side["test"], *(prompts_of_side["val"] if use_val_set else ())}
        for pool, size in zip(POOLS, (ai, human, final_eval), strict=True):
            rows = made(folder, pool)
            assert 1 <= len(rows) == summary[pool]["used"] <= size
            assert {row["prompt"] for row in rows} <= held_out
            assert {row["metadata"]["source"] for row in rows} == {"cmv"}
            allowed = {"val", "test"} if pool == "ai" and use_val_set else {"test"}
            assert {side_of[row["metadata"]["conversation_id"]] for row in rows} <= allowed
            clusters_of_pool[pool] = {
                cluster_of[row["metadata"]["conversation_id"]] for row in rows
            }
        counts = Counter(cluster for clusters in clusters_of_pool.values() for cluster in clusters)
        assert set(counts.values()) == {1}
        check(folder)


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, seed=5)
    run(tmp_path)
    return tmp_path


def test_the_outcome_depends_on_the_seed_and_not_on_the_order_of_the_rows(folder):
    rows = list(read_jsonl(folder / "examples.jsonl"))
    write_jsonl(folder / "examples.jsonl", reversed(rows))
    run(folder, "turned")
    run(folder, "other", seed=2)
    names = [f"sft_{side}.jsonl" for side in SFT] + [f"{pool}.jsonl" for pool in POOLS]
    for name in [*names, "summary.json"]:
        assert (folder / "out" / name).read_bytes() == (folder / "turned" / name).read_bytes()
    for name in ("sft_train.jsonl", "final_eval.jsonl"):
        assert (folder / "out" / name).read_bytes() != (folder / "other" / name).read_bytes()


def test_a_row_of_a_pool_names_its_prompt_and_conversation(folder):
    by_prompt = {
        row["input_text"]: row["metadata"]
        for side in ("val", "test")
        for row in made(folder, f"sft_{side}")
    }
    for pool in POOLS:
        rows = made(folder, pool)
        assert len({row["metadata"]["prompt_id"] for row in rows}) == len(rows)
        for row in rows:
            origin = by_prompt[row["prompt"]]
            assert row["metadata"]["prompt_id"] == f"cmv-{origin['utterance_id']}"
            assert row["metadata"]["conversation_id"] == origin["conversation_id"]


def test_the_summary_tells_the_plan_from_what_the_data_allowed(folder):
    run(folder, train=100_000, human_pool_size=8_000, final_eval_size=20_000)
    summary = read_json(folder / "out" / "summary.json")
    assert summary["train"]["asked"] == 100_000
    assert (
        summary["train"]["used"]
        == summary["train"]["available"]
        == len(made(folder, "sft_train"))
        < 200
    )
    for pool, asked in (("human", 8_000), ("final_eval", 20_000)):
        assert summary[pool] == {"asked": asked, "used": len(made(folder, pool))}
    assert 1 <= summary["human"]["used"] < summary["final_eval"]["used"], (
        "they shrink in proportion"
    )


def test_an_empty_response_is_refused(folder):
    rows = list(read_jsonl(folder / "examples.jsonl"))
    rows[3] |= {"response": "  \n", "full_text": rows[3]["input_text"]}
    write_jsonl(folder / "examples.jsonl", rows)
    with pytest.raises(UserError) as raised:
        run(folder)
    assert rows[3]["metadata"]["utterance_id"] in str(raised.value)
    assert "empty response" in str(raised.value) and "\n" not in str(raised.value)


def test_a_conversation_that_has_no_side_is_named(folder):
    rows = list(read_jsonl(folder / "examples.jsonl"))
    write_jsonl(folder / "examples.jsonl", [*rows, sft_row("c_unknown", 0, "prompt")])
    with pytest.raises(UserError, match="c_unknown"):
        run(folder)


def test_too_few_prompts_for_the_pools_are_refused(folder):
    with pytest.raises(UserError, match="the human pool is empty.*too few for this plan"):
        run(folder, test=1)


def test_the_pools_can_hold_the_prompts_of_the_other_source(folder):
    run(folder, pool_source="p4g", human_pool_size=2, final_eval_size=4)
    for pool in POOLS:
        assert {row["metadata"]["source"] for row in made(folder, pool)} == {"p4g"}


def change(folder, name, row):
    path = folder / "out" / f"{name}.jsonl"
    write_jsonl(path, [*read_jsonl(path), row])


def conversation_on(folder, side):
    return next(c for c, s in sides_of(folder)[0].items() if s == side)


def pool_row(conversation, prompt="another prompt"):
    return {
        "prompt": prompt,
        "metadata": {"conversation_id": conversation, "prompt_id": "x", "source": "cmv"},
    }


def twin_of(folder, name):
    """Let a new conversation on the same side be a near-duplicate of the first one of a file."""
    conversation = made(folder, name)[0]["metadata"]["conversation_id"]
    side_of, cluster_of = sides_of(folder)
    with (folder / "sides.csv").open("a") as table:
        table.write(f"x,twin,{cluster_of[conversation]},{side_of[conversation]}\n")
    return "twin"


def one_cluster_on_two_sides(folder):
    with (folder / "sides.csv").open("a") as table:
        table.write(f"x,twin,{sides_of(folder)[1][conversation_on(folder, 'train')]},test\n")


def a_conversation_in_two_sft_files(folder):
    change(folder, "sft_train", made(folder, "sft_test")[0])


def a_twin_in_another_sft_file(folder):
    change(folder, "sft_train", sft_row(twin_of(folder, "sft_val"), 0, "another prompt"))


def a_row_in_the_file_of_another_side(folder):
    """Its conversation stands in no other file, since the plan left it out."""
    with (folder / "sides.csv").open("a") as table:
        table.write("x,left_out,left_out,test\n")
    change(folder, "sft_train", sft_row("left_out", 0, "another prompt"))


def a_conversation_in_two_pools(folder):
    change(folder, "ai", made(folder, "final_eval")[0])


def a_twin_in_another_pool(folder):
    change(folder, "ai", pool_row(twin_of(folder, "human")))


def a_training_conversation_in_a_pool(folder):
    change(folder, "ai", pool_row(conversation_on(folder, "train")))


def a_validation_conversation_in_the_final_evaluation(folder):
    change(folder, "final_eval", pool_row(conversation_on(folder, "val")))


def a_validation_conversation_in_the_human_pool(folder):
    change(folder, "human", pool_row(conversation_on(folder, "val")))


def a_pools_prompt_in_the_training_rows(folder):
    prompt = made(folder, "final_eval")[0]["prompt"]
    change(folder, "sft_train", sft_row(conversation_on(folder, "train"), 9, prompt))


def a_row_without_a_side(folder):
    change(folder, "sft_train", sft_row("c_unknown", 0, "another prompt"))


def a_prompt_without_a_side(folder):
    change(folder, "ai", pool_row("c_unknown"))


LEAKS = (
    one_cluster_on_two_sides,
    a_conversation_in_two_sft_files,
    a_twin_in_another_sft_file,
    a_row_in_the_file_of_another_side,
    a_conversation_in_two_pools,
    a_twin_in_another_pool,
    a_training_conversation_in_a_pool,
    a_validation_conversation_in_the_final_evaluation,
    a_validation_conversation_in_the_human_pool,
    a_pools_prompt_in_the_training_rows,
    a_row_without_a_side,
    a_prompt_without_a_side,
)


@pytest.mark.parametrize("plant", LEAKS, ids=lambda plant: plant.__name__)
def test_a_planted_leak_is_found(folder, plant):
    check(folder)
    (folder / "out" / "leakage.json").unlink()
    plant(folder)
    with pytest.raises(UserError) as raised:
        check(folder)
    assert "\n" not in str(raised.value)
    assert not (folder / "out" / "leakage.json").exists()


def test_a_delta_pair_without_a_side_is_found(folder):
    def pair(conversation):
        return {
            "prompt": "p",
            "winner": "w",
            "loser": "l",
            "metadata": {"conversation_id": conversation},
        }

    write_jsonl(folder / "pairs.jsonl", [pair("c0"), pair("c1")])
    counts = check(folder, pairs=folder / "pairs.jsonl")
    assert counts["conversations"] == 120
    assert read_json(folder / "out" / "leakage.json")["leaks"] == 0
    write_jsonl(folder / "pairs.jsonl", [pair("c0"), pair("c_unknown")])
    with pytest.raises(UserError, match="c_unknown has no side"):
        check(folder, pairs=folder / "pairs.jsonl")


def test_a_leak_ends_the_command_with_one_line(folder, command_line):
    a_conversation_in_two_pools(folder)
    run_ = command_line(
        "leakage", "--sides", folder / "sides.csv",
        "--sft", *(f"{side}={folder}/out/sft_{side}.jsonl" for side in SFT),
        "--pools", *(f"{pool}={folder}/out/{pool}.jsonl" for pool in POOLS),
        "--pairs", shutil.copy(folder / "out" / "sft_val.jsonl", folder / "pairs.jsonl"),
        "--output", folder / "leakage.json",
    )  # fmt: skip
    assert run_.returncode == 1
    assert run_.stderr.startswith("error: leak: ") and run_.stderr.count("\n") == 1


def test_a_cut_off_examples_file_ends_the_command_with_one_line(folder, command_line):
    examples = folder / "examples.jsonl"
    examples.write_text(examples.read_text()[:-30])
    plan = [word for name, value in PLAN.items() for word in (f"--{name}", json.dumps(value))]
    outputs = [f"sft_{side}" for side in SFT] + ["ai_pool", "human_pool", "final_eval", "summary"]
    run_ = command_line(
        "split", "--examples", examples, "--sides", folder / "sides.csv", "--seed", 1, *plan,
        *(word for name in outputs for word in (f"--{name}", folder / "new" / name)),
    )  # fmt: skip
    last = sum(1 for _ in examples.open())
    assert run_.returncode == 1
    assert run_.stderr.startswith(f"error: {examples}, line {last}: not valid JSON")
    assert run_.stderr.count("\n") == 1 and not (folder / "new").exists()
