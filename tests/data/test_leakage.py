"""The check of a split finds every planted leak."""

import pytest

from persuasion_rl.data.near_duplicates import NearDuplicateSettings
from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.records import SIDES
from small_splits import POOLS, check, post_of, read_part, sft_row, sides_of, write_posts


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
    """Add a conversation to the table of sides and to the corpus."""
    with (folder / "sides.csv").open("a") as table:
        table.write(f"x,{name},{cluster},{side}\n")
    metas = {i: e for i, e in read_json(folder / "x" / "conversations.json").items()}
    write_posts(folder, metas | {name: post or post_of(name)})
    return name


def twin_of(folder, name):
    """Add a near-duplicate of the first conversation of a file, on the same side."""
    conversation = read_part(folder, name)[0]["metadata"]["conversation_id"]
    side_of, cluster_of = sides_of(folder)
    cluster = cluster_of[conversation]
    return add_conversation(folder, "twin", cluster, side_of[conversation], post_of(cluster))


def secret_twin(folder, name, side):
    """Add a near-duplicate of the first conversation of a file on `side`, with another cluster in the table."""
    conversation = read_part(folder, name)[0]["metadata"]["conversation_id"]
    return add_conversation(
        folder, "twin", "twin", side, post_of(sides_of(folder)[1][conversation])
    )


def one_cluster_on_two_sides(folder):
    cluster = sides_of(folder)[1][conversation_on(folder, "train")]
    add_conversation(folder, "twin", cluster, "test")


def a_conversation_in_two_sft_files(folder):
    change(folder, "sft_train", read_part(folder, "sft_test")[0])


def a_twin_in_another_sft_file(folder):
    change(folder, "sft_train", sft_row(twin_of(folder, "sft_val"), 0, "another prompt"))


def a_row_in_the_file_of_another_side(folder):
    """Its conversation stands in no other file, since the plan left it out."""
    add_conversation(folder, "left_out", "left_out", "test")
    change(folder, "sft_train", sft_row("left_out", 0, "another prompt"))


def near_duplicate_posts_on_two_sides(folder):
    """No row belongs to the twin."""
    secret_twin(folder, "sft_test", "train")


def near_duplicate_posts_in_two_pools(folder):
    change(folder, "ai", pool_row(secret_twin(folder, "human", "test")))


def a_prompt_in_two_pools(folder):
    row = read_part(folder, "human")[0]
    other = add_conversation(folder, "other", "other", "test")
    change(folder, "ai", pool_row(other, prompt=row["prompt"]))


def one_conversation_on_two_sides(folder):
    with (folder / "sides.csv").open("a") as table:
        table.write(f"x,{conversation_on(folder, 'train')},another,test\n")


def a_conversation_in_two_pools(folder):
    change(folder, "ai", read_part(folder, "final_eval")[0])


def a_twin_in_another_pool(folder):
    change(folder, "ai", pool_row(twin_of(folder, "human")))


def a_training_conversation_in_a_pool(folder):
    change(folder, "ai", pool_row(conversation_on(folder, "train")))


def a_validation_conversation_in_the_final_evaluation(folder):
    change(folder, "final_eval", pool_row(conversation_on(folder, "val")))


def a_validation_conversation_in_the_human_pool(folder):
    change(folder, "human", pool_row(conversation_on(folder, "val")))


def a_pools_prompt_in_the_training_rows(folder):
    prompt = read_part(folder, "final_eval")[0]["prompt"]
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
    """Its cluster in the table is another one, so only the comparison of posts could call it a leak."""
    secret_twin(folder, "sft_test", "test")
    assert check(folder)["conversations"] == 121


def test_posts_are_compared_as_the_study_says(folder):
    near_duplicate_posts_on_two_sides(folder)
    metas = read_json(folder / "x" / "conversations.json")
    metas["twin"]["op-text-body"] += " and some words more that the first one did not have"
    write_posts(folder, metas)
    check(folder)
    with pytest.raises(UserError, match="near-duplicates"):
        check(folder, settings=NearDuplicateSettings(near_duplicate=0.4))


def test_a_delta_pair_without_a_side_is_found(folder):
    def pair(conversation):
        return {
            "prompt": "p",
            "winner": "w",
            "loser": "l",
            "metadata": {"conversation_id": conversation, "winner_id": "w", "loser_id": "l"},
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
    result = command_line(
        "data.leakage", "--corpora", folder / "x", "--sides", folder / "sides.csv",
        "--sft", *(f"{side}={folder}/out/sft_{side}.jsonl" for side in SIDES),
        "--pools", *(f"{pool}={folder}/out/{pool}.jsonl" for pool in POOLS),
        "--pairs", folder / "pairs.jsonl",
        "--output", folder / "leakage.json",
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: leak: ") and result.stderr.count("\n") == 1
