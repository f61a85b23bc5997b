"""The split and its check: sides and pools have nothing in common, and a planted leak is found."""

import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from persuasion_rl.data.leakage import check_leakage
from persuasion_rl.data.split import split
from persuasion_rl.files import UserError, read_json, read_jsonl, write_json, write_jsonl
from persuasion_rl.tables import write_table

SFT = ("train", "val", "test")
POOLS = ("ai", "human", "final_eval")
PLAN = dict(
    train=100,
    val=20,
    test=40,
    use_val_set=True,
    ai_pool_size=25,
    human_pool_size=8,
    final_eval_size=12,
)
SIZES = {
    "train": "train", "val": "val", "test": "test",
    "ai": "ai_pool_size", "human": "human_pool_size", "final_eval": "final_eval_size",
}  # fmt: skip


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


def post_of(cluster: str) -> dict:
    """A post that is that of all of its cluster and of no other."""
    rng = random.Random(cluster)
    words = " ".join(f"w{rng.randrange(10**6)}" for _ in range(12))
    return {"op-title": f"CMV: {cluster}", "op-text-body": words, "op-userID": "op"}


def write_posts(folder: Path, metas: dict[str, dict]) -> None:
    """The corpus `x`: of each conversation only its post."""
    posts = [
        {"id": c, "conversation_id": c, "speaker": "op", "text": "", "reply-to": None}
        for c in metas
    ]
    write_jsonl(folder / "x" / "utterances.jsonl", posts)
    write_json(folder / "x" / "conversations.json", metas)


def write_data(
    folder: Path, seed: int, conversations: int = 120, p4g: float = 0.25, alone: float = 0.7
) -> None:
    """Conversations in clusters on sides, with several replies each, some of them to the same prompt."""
    rng = random.Random(seed)
    table, rows = [], []
    cluster, side = "", ""
    for number in range(conversations):
        name = f"c{number}"
        if number == 0 or rng.random() < alone:
            cluster, side = name, rng.choices(SFT, (0.5, 0.2, 0.3))[0]
        table.append({"corpus": "x", "conversation_id": name, "cluster": cluster, "side": side})
        for reply in range(rng.randrange(5)):
            prompt = f"prompt {name} {rng.randrange(3)}"
            if rng.random() < 0.2:
                prompt = f"a prompt of many conversations {rng.randrange(40)}"
            source = "p4g" if rng.random() < p4g else "cmv"
            rows.append(sft_row(name, reply, prompt, source))
    rng.shuffle(rows)
    write_table(folder / "sides.csv", table, ["corpus", "conversation_id", "cluster", "side"])
    write_jsonl(folder / "examples.jsonl", rows)
    write_jsonl(folder / "pairs.jsonl", [])
    write_posts(folder, {row["conversation_id"]: post_of(row["cluster"]) for row in table})


def run(folder: Path, out: str = "out", seed: int = 1, **plan) -> dict:
    out_folder = folder / out
    return split(
        sides=folder / "sides.csv",
        **{f"sft_{side}": out_folder / f"sft_{side}.jsonl" for side in SFT},
        ai_pool=out_folder / "ai.jsonl", human_pool=out_folder / "human.jsonl",
        final_eval=out_folder / "final_eval.jsonl", summary=out_folder / "summary.json",
        **(PLAN | {"seed": seed, "examples": [folder / "examples.jsonl"]} | plan),
    )  # fmt: skip


def check(folder: Path, **settings) -> dict[str, int]:
    out_folder = folder / "out"
    return check_leakage(
        corpora=[folder / "x"],
        sides=folder / "sides.csv",
        sft={side: out_folder / f"sft_{side}.jsonl" for side in SFT},
        pools={pool: out_folder / f"{pool}.jsonl" for pool in POOLS},
        pairs=folder / "pairs.jsonl",
        output=out_folder / "leakage.json",
        **settings,
    )


def made(folder: Path, name: str) -> list[dict]:
    return list(read_jsonl(folder / "out" / f"{name}.jsonl"))


def sides_of(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    lines = [line.split(",") for line in (folder / "sides.csv").read_text().splitlines()[1:]]
    return {c: side for _, c, _, side in lines}, {c: cluster for _, c, cluster, _ in lines}


def sizes_made(folder: Path) -> dict[str, int]:
    return {
        part: len(made(folder, f"sft_{part}" if part in SFT else part)) for part in (*SFT, *POOLS)
    }


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
    """What the configuration asks of a plan: the pools fit into validation and test."""
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
        for side in SFT:
            rows = made(folder, f"sft_{side}")
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
            rows = made(folder, pool)
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
        used = sizes_made(folder)
        assert {part: summary["parts"][part]["used"] for part in used} == used
        assert compared == {
            "conversations": 120,
            "sft_rows": sum(used[side] for side in SFT),
            "prompts": sum(used[pool] for pool in POOLS),
        }


def proportional(used: dict[str, int], asked: dict[str, int]) -> bool:
    """Whether one factor gives all sizes, rounded down, of those that were asked for; none is below one
    row, and the test side is not below what the two held-out pools need."""
    least = {part: 1 for part in asked} | {"test": used["human"] + used["final_eval"]}
    shrunk = {part for part, size in used.items() if size > least[part]}
    above = max((used[part] / asked[part] for part in shrunk), default=0)
    below = min((used[part] + 1) / asked[part] for part in used)
    return above < below + 1e-9


@given(seed=st.integers(0, 10**9), plan=PLANS)
def test_a_plan_is_met_exactly_or_all_parts_shrink_in_proportion_or_it_is_an_error(seed, plan):
    assume(small_enough(plan))
    asked = {part: plan[key] for part, key in SIZES.items() if plan[key] is not None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, seed)
        try:
            summary = run(folder, **plan)
        except UserError:
            with pytest.raises(UserError, match="the data is too small"):
                run(folder, "strict", on_shortage="error", **plan)
            return
        used = {part: summary["parts"][part]["used"] for part in asked}
        assert {part: summary["parts"][part]["asked"] for part in asked} == asked
        assert summary["scale"] == round(used["train"] / asked["train"], 4)
        ai = summary["parts"]["ai"]["used"]
        assert summary["sft_to_rlaif"] == round(used["train"] / ai, 2)
        assert summary["sft_to_rlhf"] == round(used["train"] / used["human"], 2)
        if used == asked:
            run(folder, "strict", on_shortage="error", **plan)
            for file in (folder / "out").glob("*.jsonl"):
                assert file.read_bytes() == (folder / "strict" / file.name).read_bytes()
            return
        assert proportional(used, asked)
        with pytest.raises(UserError) as raised:
            run(folder, "strict", on_shortage="error", **plan)
        assert all(
            f"{part} {used[part]:,} of {asked[part]:,}" in str(raised.value) for part in asked
        )
        assert "on_shortage" in str(raised.value) and "\n" not in str(raised.value)
        assert not (folder / "strict").exists()


@given(seed=st.integers(0, 10**9), share=st.floats(0.1, 0.6), plan=PLANS)
def test_where_there_is_enough_every_size_is_exact(seed, share, plan):
    """The plan asks for a share of what there is; without a size the AI pool is exactly the rest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, seed, conversations=300, p4g=0, alone=0.2)
        there = {
            side: numbers["available"]
            for side, numbers in run(folder, "all", train=1, val=1, test=3, human_pool_size=1, final_eval_size=1, ai_pool_size=1)["parts"].items()
            if side in SFT
        }  # fmt: skip
        plan = plan | {side: int(share * count) for side, count in there.items()}
        plan |= {
            "pool_source": "cmv",
            "human_pool_size": 5,
            "final_eval_size": plan["test"] // 2 - 5,
        }
        assume(small_enough(plan) and plan["final_eval_size"] > 0)
        summary = run(folder, **plan)
        asked = {part: plan[key] for part, key in SIZES.items()}
        rest = plan["test"] - plan["test"] // 2 + plan["val"] * plan["use_val_set"]
        asked["ai"] = plan["ai_pool_size"] or rest
        assert sizes_made(folder) == asked
        assert summary["scale"] == 1


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


def test_the_summary_tells_the_plan_from_what_the_data_allowed(folder, capsys):
    """The training rows are too few: of all parts there is the share that there is of them."""
    side_of, _ = sides_of(folder)
    rows = list(read_jsonl(folder / "examples.jsonl"))
    there = Counter(side_of[row["metadata"]["conversation_id"]] for row in rows)
    prompts = {side: set() for side in SFT}
    for row in rows:
        prompts[side_of[row["metadata"]["conversation_id"]]].add(row["input_text"])
    test = len(prompts["test"] - prompts["train"])
    val = len(prompts["val"] - prompts["train"] - prompts["test"])
    assert test < there["test"] and val < there["val"]
    train = there["train"]
    run(folder, train=2 * train)
    summary = read_json(folder / "out" / "summary.json")
    assert summary == {
        "on_shortage": "scale",
        "scale": 0.5,
        "parts": {
            "train": {"asked": 2 * train, "used": train, "examples": train, "available": train},
            "val": {"asked": 20, "used": 10, "examples": there["val"], "available": val},
            "test": {"asked": 40, "used": 20, "examples": there["test"], "available": test},
            "ai": {"asked": 25, "used": 12},
            "final_eval": {"asked": 12, "used": 6},
            "human": {"asked": 8, "used": 4},
        },
        "sft_to_rlaif": round(train / 12, 2),
        "sft_to_rlhf": round(train / 4, 2),
    }
    assert sizes_made(folder) == {part: n["used"] for part, n in summary["parts"].items()}
    assert (
        f"the data is too small for the plan; all parts shrink in proportion: train {train} of"
        f" {2 * train}, val 10 of 20, test 20 of 40" in capsys.readouterr().err
    )


def test_without_a_size_the_ai_pool_is_the_rest(folder):
    summary = run(folder, ai_pool_size=None)
    assert summary["parts"]["ai"]["asked"] == "the rest"
    taken = {row["prompt"] for pool in ("human", "final_eval") for row in made(folder, pool)}
    rest = [
        row["input_text"]
        for side in ("val", "test")
        for row in made(folder, f"sft_{side}")
        if row["metadata"]["source"] == "cmv" and row["input_text"] not in taken
    ]
    assert Counter(rest) == Counter(row["prompt"] for row in made(folder, "ai"))
    run(folder, ai_pool_size=None, use_val_set=False)
    sides = [sides_of(folder)[0][row["metadata"]["conversation_id"]] for row in made(folder, "ai")]
    assert set(sides) == {"test"} and len(sides) < len(rest)


def test_the_training_side_may_have_several_rows_of_a_prompt(folder):
    prompts = [row["input_text"] for row in made(folder, "sft_train")]
    assert len(prompts) > len(set(prompts))


def test_rows_of_two_files_are_split_together_and_are_written_as_they_were(folder):
    rows = list(read_jsonl(folder / "examples.jsonl"))
    for source in ("cmv", "p4g"):
        path = folder / f"{source}.jsonl"
        write_jsonl(path, [row for row in rows if row["metadata"]["source"] == source])
    run(folder, "two", examples=[folder / "cmv.jsonl", folder / "p4g.jsonl"])
    for path in (folder / "out").glob("*.jsonl"):
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes()
    for side in SFT:
        written = made(folder, f"sft_{side}")
        assert all(row in rows for row in written)
        assert {row["metadata"]["source"] for row in written} == {"cmv", "p4g"}


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
        assert sizes_made(folder) == {
            "train": 1, "val": 1, "test": min(prompts, 8), "human": outcome, "final_eval": outcome,
            "ai": min(prompts, 8) - 2 * outcome,
        }  # fmt: skip


def test_the_pools_can_hold_the_prompts_of_the_other_source(folder):
    run(folder, pool_source="p4g", ai_pool_size=6, human_pool_size=2, final_eval_size=4)
    for pool, size in (("ai", 6), ("human", 2), ("final_eval", 4)):
        rows = made(folder, pool)
        assert {row["metadata"]["source"] for row in rows} == {"p4g"} and len(rows) == size


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


def add_conversation(folder, name, cluster, side, post=None):
    """A conversation more in the table of sides, and in the corpus."""
    with (folder / "sides.csv").open("a") as table:
        table.write(f"x,{name},{cluster},{side}\n")
    metas = {i: e for i, e in read_json(folder / "x" / "conversations.json").items()}
    write_posts(folder, metas | {name: post or post_of(name)})
    return name


def twin_of(folder, name):
    """Let a new conversation on the same side be a near-duplicate of the first one of a file."""
    conversation = made(folder, name)[0]["metadata"]["conversation_id"]
    side_of, cluster_of = sides_of(folder)
    cluster = cluster_of[conversation]
    return add_conversation(folder, "twin", cluster, side_of[conversation], post_of(cluster))


def secret_twin(folder, name, side):
    """The same, but the table of sides does not know that both are of one cluster."""
    conversation = made(folder, name)[0]["metadata"]["conversation_id"]
    return add_conversation(
        folder, "twin", "twin", side, post_of(sides_of(folder)[1][conversation])
    )


def one_cluster_on_two_sides(folder):
    cluster = sides_of(folder)[1][conversation_on(folder, "train")]
    add_conversation(folder, "twin", cluster, "test")


def a_conversation_in_two_sft_files(folder):
    change(folder, "sft_train", made(folder, "sft_test")[0])


def a_twin_in_another_sft_file(folder):
    change(folder, "sft_train", sft_row(twin_of(folder, "sft_val"), 0, "another prompt"))


def a_row_in_the_file_of_another_side(folder):
    """Its conversation stands in no other file, since the plan left it out."""
    add_conversation(folder, "left_out", "left_out", "test")
    change(folder, "sft_train", sft_row("left_out", 0, "another prompt"))


def near_duplicate_posts_on_two_sides(folder):
    """No row is of the twin."""
    secret_twin(folder, "sft_test", "train")


def near_duplicate_posts_in_two_pools(folder):
    change(folder, "ai", pool_row(secret_twin(folder, "human", "test")))


def an_utterance_on_two_sides(folder):
    """As a comment of two threads would be."""
    row = made(folder, "sft_test")[0]
    metadata = row["metadata"] | {"conversation_id": conversation_on(folder, "train")}
    change(folder, "sft_train", row | {"metadata": metadata, "input_text": "another prompt"})


def a_prompt_in_two_pools(folder):
    row = made(folder, "human")[0]
    other = add_conversation(folder, "other", "other", "test")
    change(folder, "ai", pool_row(other, prompt=row["prompt"]))


def one_conversation_on_two_sides(folder):
    with (folder / "sides.csv").open("a") as table:
        table.write(f"x,{conversation_on(folder, 'train')},another,test\n")


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


LEAKS = {
    one_cluster_on_two_sides: "leak: near-duplicate cluster",
    one_conversation_on_two_sides: "leak: conversation",
    near_duplicate_posts_on_two_sides: "are near-duplicates, and stand in test and in train",
    near_duplicate_posts_in_two_pools: "are near-duplicates, and stand in the pool ai and in the pool human",
    a_conversation_in_two_sft_files: "is on the side test",
    a_twin_in_another_sft_file: "is on the side val",
    a_row_in_the_file_of_another_side: "is on the side test",
    an_utterance_on_two_sides: "leak: utterance",
    a_conversation_in_two_pools: "leak: conversation in a pool",
    a_twin_in_another_pool: "leak: near-duplicate cluster in a pool",
    a_prompt_in_two_pools: "leak: prompt",
    a_training_conversation_in_a_pool: "is in the training data",
    a_validation_conversation_in_the_final_evaluation: "is not on the test side",
    a_validation_conversation_in_the_human_pool: "is not on the test side",
    a_pools_prompt_in_the_training_rows: "is in the training data",
    a_row_without_a_side: "c_unknown is on the side None",
    a_prompt_without_a_side: "c_unknown has no side",
}


@pytest.mark.parametrize("plant", LEAKS, ids=lambda plant: plant.__name__)
def test_a_planted_leak_is_found(folder, plant):
    check(folder)
    (folder / "out" / "leakage.json").unlink()
    plant(folder)
    with pytest.raises(UserError) as raised:
        check(folder)
    assert LEAKS[plant] in str(raised.value) and "\n" not in str(raised.value)
    assert not (folder / "out" / "leakage.json").exists()


def test_a_twin_on_its_own_side_is_no_leak(folder):
    """It would be with what the table says of clusters only: here the posts are compared."""
    secret_twin(folder, "sft_test", "test")
    assert check(folder)["conversations"] == 121


def test_posts_are_compared_as_the_study_says(folder):
    near_duplicate_posts_on_two_sides(folder)
    metas = read_json(folder / "x" / "conversations.json")
    metas["twin"]["op-text-body"] += " and some words more that the first one did not have"
    write_posts(folder, metas)
    check(folder)
    with pytest.raises(UserError, match="near-duplicates"):
        check(folder, near_duplicate=0.4)


def test_a_delta_pair_without_a_side_is_found(folder):
    def pair(conversation):
        return {
            "prompt": "p",
            "winner": "w",
            "loser": "l",
            "metadata": {"conversation_id": conversation},
        }

    write_jsonl(folder / "pairs.jsonl", [pair("c0"), pair("c1")])
    counts = check(folder)
    assert counts["conversations"] == 120
    assert read_json(folder / "out" / "leakage.json")["leaks"] == 0
    write_jsonl(folder / "pairs.jsonl", [pair("c0"), pair("c_unknown")])
    with pytest.raises(UserError, match="c_unknown has no side"):
        check(folder)


def test_a_leak_ends_the_command_with_one_line(folder, command_line):
    a_conversation_in_two_pools(folder)
    run_ = command_line(
        "data.leakage", "--corpora", folder / "x", "--sides", folder / "sides.csv",
        "--sft", *(f"{side}={folder}/out/sft_{side}.jsonl" for side in SFT),
        "--pools", *(f"{pool}={folder}/out/{pool}.jsonl" for pool in POOLS),
        "--pairs", folder / "pairs.jsonl",
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
        "data.split", "--examples", examples, "--sides", folder / "sides.csv", "--seed", 1, *plan,
        *(word for name in outputs for word in (f"--{name}", folder / "new" / name)),
    )  # fmt: skip
    last = sum(1 for _ in examples.open())
    assert run_.returncode == 1
    assert run_.stderr.startswith(f"error: {examples}, line {last}: not valid JSON")
    assert run_.stderr.count("\n") == 1 and not (folder / "new").exists()
