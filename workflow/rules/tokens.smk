"""
From training rows to their token ids, made once for all the models that learn from them.

NEEDS   the base model's tokenizer; SFT rows, preference pairs, delta pairs
MAKES   tokens/{rows}.parquet
STEPS   tokenize   prompt and responses apart, every response closed by EOS
"""

TRAINING_ROWS = {
    "sft_train": study("splits/sft_train.jsonl"),
    "sft_val": study("splits/sft_val.jsonl"),
    "delta_pairs": study("processed/delta_pairs.jsonl"),
} | {
    f"{pool}_{part}": study(f"preferences/{pool}_{part}.jsonl")
    for pool in ALL_POOLS
    for part in ("train", "val")
}


rule tokenize:
    input:
        rows=lambda wildcards: TRAINING_ROWS[wildcards.rows],
        base=[
            f"{BASE_FOLDER}/{name}"
            for name in ("tokenizer.json", "tokenizer_config.json", "config.json")
        ],
    output:
        tokens("{rows}"),
    log:
        study("logs/tokenize/{rows}.log"),
    benchmark:
        study("benchmarks/tokenize/{rows}.tsv")
    wildcard_constraints:
        rows=one_of(TRAINING_ROWS),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("1h"),
    params:
        base=base_of,
        settings=flags({"trust_remote_code": STUDY["trust_remote_code"]}),
        code=code("training.tokenize"),
    message:
        "Tokenizing {wildcards.rows}"
    shell:
        r"""
        python -m persuasion_rl.training.tokenize \
            --rows {input.rows:q} --base {params.base:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """
