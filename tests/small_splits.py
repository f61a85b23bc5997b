"""Examples and sides with meaningless texts, their split, and its check."""

import random
from dataclasses import replace
from pathlib import Path

from persuasion_rl.data.leakage import check_leakage
from persuasion_rl.data.split import Plan, split
from persuasion_rl.files import read_jsonl, write_json, write_jsonl
from persuasion_rl.records import SIDES
from persuasion_rl.tables import write_table

POOLS = ("ai", "human", "final_eval")


PLAN = Plan(
    train=100,
    val=20,
    test=40,
    use_val_set=True,
    ai_pool_size=25,
    human_pool_size=8,
    final_eval_size=12,
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
            "reply_to": conversation,
            "response_tokens": 2,
            "context_tokens": 2,
            "context_cut": False,
        },
    }


def post_of(cluster: str) -> dict:
    """The post of all conversations of a cluster, and of no other."""
    rng = random.Random(cluster)
    words = " ".join(f"w{rng.randrange(10**6)}" for _ in range(12))
    return {"op-title": f"CMV: {cluster}", "op-text-body": words, "op-userID": "op"}


def write_posts(folder: Path, metas: dict[str, dict]) -> None:
    """Write the corpus `x`, in which each conversation is only its post."""
    posts = [
        {"id": c, "conversation_id": c, "speaker": "op", "text": "", "reply-to": None}
        for c in metas
    ]
    write_jsonl(folder / "x" / "utterances.jsonl", posts)
    write_json(folder / "x" / "conversations.json", metas)


def write_data(
    folder: Path, seed: int, conversations: int = 120, p4g: float = 0.25, alone: float = 0.7
) -> None:
    """Write clusters of conversations on sides, with several replies each, some to the same prompt."""
    rng = random.Random(seed)
    table, rows = [], []
    cluster, side = "", ""
    for number in range(conversations):
        name = f"c{number}"
        if number == 0 or rng.random() < alone:
            cluster, side = name, rng.choices(SIDES, (0.5, 0.2, 0.3))[0]
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


def run(
    folder: Path,
    out: str = "out",
    seed: int = 1,
    examples=("examples.jsonl",),
    on_shortage="scale",
    **plan,
) -> dict:
    """Split the examples of a folder by PLAN with some changes, and return the summary."""
    out_folder = folder / out
    return split(
        examples=[folder / name for name in examples],
        sides=folder / "sides.csv",
        **{f"sft_{side}": out_folder / f"sft_{side}.jsonl" for side in SIDES},
        ai_pool=out_folder / "ai.jsonl",
        human_pool=out_folder / "human.jsonl",
        final_eval=out_folder / "final_eval.jsonl",
        summary=out_folder / "summary.json",
        seed=seed,
        plan=replace(PLAN, **plan),
        on_shortage=on_shortage,
    )


def check(folder: Path, **settings) -> dict[str, int]:
    out_folder = folder / "out"
    return check_leakage(
        corpora=[folder / "x"],
        sides=folder / "sides.csv",
        sft={side: out_folder / f"sft_{side}.jsonl" for side in SIDES},
        pools={pool: out_folder / f"{pool}.jsonl" for pool in POOLS},
        pairs=folder / "pairs.jsonl",
        output=out_folder / "leakage.json",
        **settings,
    )


def read_part(folder: Path, name: str) -> list[dict]:
    return list(read_jsonl(folder / "out" / f"{name}.jsonl"))


def sides_of(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    lines = [line.split(",") for line in (folder / "sides.csv").read_text().splitlines()[1:]]
    return {c: side for _, c, _, side in lines}, {c: cluster for _, c, cluster, _ in lines}


def sizes_written(folder: Path) -> dict[str, int]:
    return {
        part: len(read_part(folder, f"sft_{part}" if part in SIDES else part))
        for part in (*SIDES, *POOLS)
    }
