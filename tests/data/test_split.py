"""The split: sides and pools have nothing in common, and sizes are exact or all smaller in proportion."""

import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.records import SIDES, example_id
from persuasion_rl.tables import write_table
from small_splits import (
    PLAN,
    POOLS,
    check,
    read_part,
    run,
    sft_row,
    sides_of,
    sizes_written,
    write_data,
)

SIZES = {
    "train": "train", "val": "val", "test": "test",
    "ai": "ai_pool_size", "human": "human_pool_size", "final_eval": "final_eval_size",
}  # fmt: skip


PLANS = st.fixed_dictionaries(
    dict(
        use_val_set=st.booleans(),
        human_pool_size=st.integers(1, 60),
        final_eval_size=st.integers(1, 60),
        ai_pool_size=st.none() | st.integers(1, 90),
        train=st.integers(1, 200),
        val=st.integers(1, 60),
        test=st.integers(10, 90),
        pool_source=st.sampled_from(["cmv", "cmv", "p4g"]),
    )
)


def small_enough(plan: dict) -> bool:
    """Whether the pools fit into validation and test, as the configuration requires."""
    rest = plan["test"] - plan["human_pool_size"] - plan["final_eval_size"]
    return (
        rest >= 0 and 1 <= (plan["ai_pool_size"] or 1) <= rest + plan["val"] * plan["use_val_set"]
    )


@given(seed=st.integers(0, 10**9), plan=PLANS)
def test_whatever_the_plan_sides_and_pools_have_nothing_in_common(seed, plan):
    assume(small_enough(plan))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, seed)
        try:
            summary = run(folder, **plan)
        except UserError as error:
            assert "the data is too small for any split of this plan" in str(error)
            assert not (folder / "out").exists()
            return
        side_of, cluster_of = sides_of(folder)
        clusters_of_pool = {}
        prompts_of_side = {}
        for side in SIDES:
            rows = read_part(folder, f"sft_{side}")
            assert {side_of[row["metadata"]["conversation_id"]] for row in rows} == {side}
            prompts_of_side[side] = [row["input_text"] for row in rows]
        assert not set(prompts_of_side["val"]) & set(prompts_of_side["train"])
        assert not set(prompts_of_side["test"]) & {
            *prompts_of_side["train"],
            *prompts_of_side["val"],
        }
        for side in ("val", "test"):
            assert len(prompts_of_side[side]) == len(set(prompts_of_side[side]))
        for pool in POOLS:
            rows = read_part(folder, pool)
            val_too = pool == "ai" and plan["use_val_set"]
            held_out = {*prompts_of_side["test"], *(prompts_of_side["val"] if val_too else ())}
            if pool != "ai" or plan["ai_pool_size"] is None:
                assert {row["prompt"] for row in rows} <= held_out
            allowed = {"val", "test"} if val_too else {"test"}
            assert {side_of[row["metadata"]["conversation_id"]] for row in rows} <= allowed
            assert {row["metadata"]["source"] for row in rows} == {plan["pool_source"]}
            clusters_of_pool[pool] = {
                cluster_of[row["metadata"]["conversation_id"]] for row in rows
            }
        counts = Counter(cluster for clusters in clusters_of_pool.values() for cluster in clusters)
        assert set(counts.values()) == {1}
        compared = check(folder)
        used = sizes_written(folder)
        assert {part: summary["parts"][part]["used"] for part in used} == used
        assert compared == {
            "conversations": 120,
            "sft_rows": sum(used[side] for side in SIDES),
            "prompts": sum(used[pool] for pool in POOLS),
        }


def proportional(used: dict[str, int], planned: dict[str, int]) -> bool:
    """Whether one factor gives all sizes, rounded down, from the planned ones; none is below one
    row, and the test side is not below what the two held-out pools need."""
    least = {part: 1 for part in planned} | {"test": used["human"] + used["final_eval"]}
    shrunk = {part for part, size in used.items() if size > least[part]}
    above = max((used[part] / planned[part] for part in shrunk), default=0)
    below = min((used[part] + 1) / planned[part] for part in used)
    return above < below + 1e-9


@given(seed=st.integers(0, 10**9), plan=PLANS)
def test_a_plan_is_met_exactly_or_all_parts_shrink_in_proportion_or_it_is_an_error(seed, plan):
    assume(small_enough(plan))
    planned = {part: plan[key] for part, key in SIZES.items() if plan[key] is not None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, seed)
        try:
            summary = run(folder, **plan)
        except UserError:
            with pytest.raises(UserError, match="the data is too small"):
                run(folder, "strict", on_shortage="error", **plan)
            return
        used = {part: summary["parts"][part]["used"] for part in planned}
        assert {part: summary["parts"][part]["asked"] for part in planned} == planned
        assert summary["scale"] == round(used["train"] / planned["train"], 4)
        ai = summary["parts"]["ai"]["used"]
        assert summary["sft_to_rlaif"] == round(used["train"] / ai, 2)
        assert summary["sft_to_rlhf"] == round(used["train"] / used["human"], 2)
        if used == planned:
            run(folder, "strict", on_shortage="error", **plan)
            for file in (folder / "out").glob("*.jsonl"):
                assert file.read_bytes() == (folder / "strict" / file.name).read_bytes()
            return
        assert proportional(used, planned)
        with pytest.raises(UserError) as raised:
            run(folder, "strict", on_shortage="error", **plan)
        assert all(
            f"{part} {used[part]:,} of {planned[part]:,}" in str(raised.value) for part in planned
        )
        assert "on_shortage" in str(raised.value) and "\n" not in str(raised.value)
        assert not (folder / "strict").exists()


@given(seed=st.integers(0, 10**9), share=st.floats(0.1, 0.6), plan=PLANS)
def test_where_there_is_enough_every_size_is_exact(seed, share, plan):
    """The plan asks for a share of what there is; without a size the AI pool is exactly the rest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, seed, conversations=300, p4g=0, alone=0.2)
        available = {
            side: numbers["available"]
            for side, numbers in run(folder, "all", train=1, val=1, test=3, human_pool_size=1, final_eval_size=1, ai_pool_size=1)["parts"].items()
            if side in SIDES
        }  # fmt: skip
        plan = plan | {side: int(share * count) for side, count in available.items()}
        plan |= {
            "pool_source": "cmv",
            "human_pool_size": 5,
            "final_eval_size": plan["test"] // 2 - 5,
        }
        assume(small_enough(plan) and plan["final_eval_size"] > 0)
        summary = run(folder, **plan)
        planned = {part: plan[key] for part, key in SIZES.items()}
        rest = plan["test"] - plan["test"] // 2 + plan["val"] * plan["use_val_set"]
        planned["ai"] = plan["ai_pool_size"] or rest
        assert sizes_written(folder) == planned
        assert summary["scale"] == 1


def test_the_outcome_depends_on_the_seed_and_not_on_the_order_of_the_rows(folder):
    rows = list(read_jsonl(folder / "examples.jsonl"))
    write_jsonl(folder / "examples.jsonl", reversed(rows))
    run(folder, "reversed")
    run(folder, "other", seed=2)
    names = [f"sft_{side}.jsonl" for side in SIDES] + [f"{pool}.jsonl" for pool in POOLS]
    for name in [*names, "summary.json"]:
        assert (folder / "out" / name).read_bytes() == (folder / "reversed" / name).read_bytes()
    for name in ("sft_train.jsonl", "final_eval.jsonl"):
        assert (folder / "out" / name).read_bytes() != (folder / "other" / name).read_bytes()


def test_a_row_of_a_pool_names_its_prompt_and_conversation(folder):
    by_prompt = {
        row["input_text"]: row["metadata"]
        for side in ("val", "test")
        for row in read_part(folder, f"sft_{side}")
    }
    for pool in POOLS:
        rows = read_part(folder, pool)
        assert len({row["metadata"]["prompt_id"] for row in rows}) == len(rows)
        for row in rows:
            origin = by_prompt[row["prompt"]]
            assert row["metadata"]["prompt_id"] == example_id(origin)
            assert row["metadata"]["conversation_id"] == origin["conversation_id"]


def test_the_summary_tells_the_plan_from_what_the_data_allowed(folder, capsys):
    """The training rows are too few, so all parts shrink to the same share of the plan."""
    side_of, _ = sides_of(folder)
    rows = list(read_jsonl(folder / "examples.jsonl"))
    examples = Counter(side_of[row["metadata"]["conversation_id"]] for row in rows)
    prompts = {side: set() for side in SIDES}
    for row in rows:
        prompts[side_of[row["metadata"]["conversation_id"]]].add(row["input_text"])
    test = len(prompts["test"] - prompts["train"])
    val = len(prompts["val"] - prompts["train"] - prompts["test"])
    assert test < examples["test"] and val < examples["val"]
    train = examples["train"]
    run(folder, train=2 * train)
    summary = read_json(folder / "out" / "summary.json")
    assert summary == {
        "on_shortage": "scale",
        "scale": 0.5,
        "parts": {
            "train": {"asked": 2 * train, "used": train, "examples": train, "available": train},
            "val": {"asked": 20, "used": 10, "examples": examples["val"], "available": val},
            "test": {"asked": 40, "used": 20, "examples": examples["test"], "available": test},
            "ai": {"asked": 25, "used": 12},
            "final_eval": {"asked": 12, "used": 6},
            "human": {"asked": 8, "used": 4},
        },
        "sft_to_rlaif": round(train / 12, 2),
        "sft_to_rlhf": round(train / 4, 2),
    }
    assert sizes_written(folder) == {part: n["used"] for part, n in summary["parts"].items()}
    assert (
        f"the data is too small for the plan; all parts shrink in proportion: train {train} of"
        f" {2 * train}, val 10 of 20, test 20 of 40" in capsys.readouterr().err
    )


def test_without_a_size_the_ai_pool_is_the_rest(folder):
    summary = run(folder, ai_pool_size=None)
    assert summary["parts"]["ai"]["asked"] == "the rest"
    pool_prompts = {
        row["prompt"] for pool in ("human", "final_eval") for row in read_part(folder, pool)
    }
    rest = [
        row["input_text"]
        for side in ("val", "test")
        for row in read_part(folder, f"sft_{side}")
        if row["metadata"]["source"] == "cmv" and row["input_text"] not in pool_prompts
    ]
    assert Counter(rest) == Counter(row["prompt"] for row in read_part(folder, "ai"))
    run(folder, ai_pool_size=None, use_val_set=False)
    sides = [
        sides_of(folder)[0][row["metadata"]["conversation_id"]] for row in read_part(folder, "ai")
    ]
    assert set(sides) == {"test"} and len(sides) < len(rest)


def test_the_training_side_may_have_several_rows_of_a_prompt(folder):
    prompts = [row["input_text"] for row in read_part(folder, "sft_train")]
    assert len(prompts) > len(set(prompts))


def test_rows_of_two_files_are_split_together_and_are_written_as_they_were(folder):
    rows = list(read_jsonl(folder / "examples.jsonl"))
    for source in ("cmv", "p4g"):
        path = folder / f"{source}.jsonl"
        write_jsonl(path, [row for row in rows if row["metadata"]["source"] == source])
    run(folder, "two", examples=["cmv.jsonl", "p4g.jsonl"])
    for path in (folder / "out").glob("*.jsonl"):
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes()
    for side in SIDES:
        of_side = read_part(folder, f"sft_{side}")
        assert all(row in rows for row in of_side)
        assert {row["metadata"]["source"] for row in of_side} == {"cmv", "p4g"}


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


def test_data_that_allows_no_split_at_all_is_refused(folder):
    rows = [r for r in read_jsonl(folder / "examples.jsonl") if r["metadata"]["source"] == "cmv"]
    write_jsonl(folder / "examples.jsonl", rows)
    with pytest.raises(UserError) as raised:
        run(folder, "new", pool_source="p4g")
    message = str(raised.value)
    assert message.startswith("the data is too small for any split of this plan: ")
    assert (
        "ai" in message and "human and final_eval" in message
    ) or "final_eval and human" in message
    assert "pool_source 'p4g'" in message and "\n" not in message
    assert not (folder / "new").exists()


@pytest.mark.parametrize("prompts, outcome", [(1, None), (2, None), (3, 1), (4, 1), (8, 2)])
def test_the_smallest_split_there_is(folder, prompts, outcome):
    """Each of the three pools needs a prompt: three of 50 asked for are enough, two are not."""
    table = [
        {"conversation_id": f"c{n}", "cluster": f"c{n}", "side": "test"} for n in range(prompts)
    ]
    table += [{"conversation_id": side, "cluster": side, "side": side} for side in ("train", "val")]
    write_table(folder / "sides.csv", table, ["conversation_id", "cluster", "side"])
    rows = [sft_row(row["conversation_id"], 0, f"prompt {n}") for n, row in enumerate(table)]
    write_jsonl(folder / "examples.jsonl", rows)
    plan = dict(test=50, human_pool_size=16, final_eval_size=16, train=4, val=4, use_val_set=False)
    if outcome is None:
        with pytest.raises(UserError, match="would be empty"):
            run(folder, "new", ai_pool_size=None, **plan)
    else:
        run(folder, ai_pool_size=None, **plan)
        assert sizes_written(folder) == {
            "train": 1, "val": 1, "test": min(prompts, 8), "human": outcome, "final_eval": outcome,
            "ai": min(prompts, 8) - 2 * outcome,
        }  # fmt: skip


def test_the_pools_can_hold_the_prompts_of_the_other_source(folder):
    run(folder, pool_source="p4g", ai_pool_size=6, human_pool_size=2, final_eval_size=4)
    for pool, size in (("ai", 6), ("human", 2), ("final_eval", 4)):
        rows = read_part(folder, pool)
        assert {row["metadata"]["source"] for row in rows} == {"p4g"} and len(rows) == size


def test_a_cut_off_examples_file_ends_the_command_with_one_line(folder, command_line):
    examples = folder / "examples.jsonl"
    examples.write_text(examples.read_text()[:-30])
    plan = [word for name, value in asdict(PLAN).items() for word in (f"--{name}", str(value))]
    outputs = [f"sft_{side}" for side in SIDES] + ["ai_pool", "human_pool", "final_eval", "summary"]
    result = command_line(
        "data.split", "--examples", examples, "--sides", folder / "sides.csv", "--seed", 1, *plan,
        *(word for name in outputs for word in (f"--{name}", folder / "new" / name)),
    )  # fmt: skip
    last = sum(1 for _ in examples.open())
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {examples}, line {last}: not valid JSON")
    assert result.stderr.count("\n") == 1 and not (folder / "new").exists()
