"""
From raw corpora to examples, delta pairs, SFT rows and the prompts of the three pools.

NEEDS   the corpora, splits/sides.csv, the base model's tokenizer
MAKES   processed/{source}_examples.jsonl, processed/delta_pairs.jsonl, splits/sft_{side}.jsonl,
        preferences/{pool}_pool_prompts.jsonl, preferences/final_eval_prompts.jsonl
STEPS   process_cmv      replies that won a delta, cleaned, within the token budget; delta pairs
        process_p4g      the persuader's turns
        split            SFT rows by side, prompts by pool
        check_leakage    fails where a conversation or a near-duplicate stands in two places
"""

BUDGET = flags(
    {
        key: DATA[key]
        for key in (
            "max_context_tokens",
            "max_seq_length",
            "max_tokens",
            "min_tokens",
            "prompt_format",
        )
    }
)
EXAMPLES = [
    study(f"processed/{source}_examples.jsonl")
    for source, used in (("cmv", DATA["use_cmv"]), ("p4g", DATA["use_p4g"]))
    if used
]


rule process_cmv:
    input:
        corpora=[f"{folder}/utterances.jsonl" for folder in CMV_CORPORA],
        conversations=[f"{folder}/conversations.json" for folder in CMV_CORPORA],
        tokenizer=f"{BASE_FOLDER}/tokenizer.json",
        tokenizer_config=f"{BASE_FOLDER}/tokenizer_config.json",
    output:
        examples=study("processed/cmv_examples.jsonl"),
        pairs=study("processed/delta_pairs.jsonl"),
        counts=study("processed/cmv_counts.json"),
    log:
        study("logs/process_cmv.log"),
    benchmark:
        study("benchmarks/process_cmv.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(8_000),
        runtime=growing("4h"),
    params:
        folders=lambda wildcards, input: folders_of(input.corpora),
        budget=BUDGET,
        code=code("data.cmv"),
    message:
        "Making examples from ChangeMyView"
    shell:
        r"""
        python -m persuasion_rl.data.cmv \
            --corpora {params.folders:q} --tokenizer {input.tokenizer:q} \
            --examples {output.examples:q} --pairs {output.pairs:q} --counts {output.counts:q} \
            {params.budget} 2> >(tee {log:q} >&2)
        """


rule process_p4g:
    input:
        corpora=[f"{folder}/utterances.jsonl" for folder in P4G_CORPORA],
        conversations=[f"{folder}/conversations.json" for folder in P4G_CORPORA],
        tokenizer=f"{BASE_FOLDER}/tokenizer.json",
        tokenizer_config=f"{BASE_FOLDER}/tokenizer_config.json",
    output:
        examples=study("processed/p4g_examples.jsonl"),
        counts=study("processed/p4g_counts.json"),
    log:
        study("logs/process_p4g.log"),
    benchmark:
        study("benchmarks/process_p4g.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("1h"),
    params:
        folders=lambda wildcards, input: folders_of(input.corpora),
        budget=BUDGET,
        settings=flags(
            {
                "donation_weighted": DATA["p4g_donation_weighted"],
                "max_examples": DATA["max_p4g_examples"],
                "seed": STUDY["seed"],
            }
        ),
        code=code("data.p4g"),
    message:
        "Making examples from PersuasionForGood"
    shell:
        r"""
        python -m persuasion_rl.data.p4g \
            --corpus {params.folders:q} --tokenizer {input.tokenizer:q} \
            --examples {output.examples:q} --counts {output.counts:q} \
            {params.settings} {params.budget} 2> >(tee {log:q} >&2)
        """


rule split:
    input:
        examples=EXAMPLES,
        sides=study("splits/sides.csv"),
    output:
        train=study("splits/sft_train.jsonl"),
        val=study("splits/sft_val.jsonl"),
        test=study("splits/sft_test.jsonl"),
        ai=study("preferences/ai_pool_prompts.jsonl"),
        human=study("preferences/human_pool_prompts.jsonl"),
        final_eval=study("preferences/final_eval_prompts.jsonl"),
        summary=study("splits/summary.json"),
    log:
        study("logs/split.log"),
    benchmark:
        study("benchmarks/split.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("30m"),
    params:
        plan=flags(
            split_sizes(DATA)
            | {
                key: DATA[key]
                for key in (
                    "ai_pool_size",
                    "final_eval_size",
                    "human_pool_size",
                    "on_shortage",
                    "pool_source",
                    "use_val_set",
                )
            }
            | {"seed": STUDY["seed"]}
        ),
        code=code("data.split"),
    message:
        "Splitting examples into sides and pools"
    shell:
        r"""
        python -m persuasion_rl.data.split \
            --examples {input.examples:q} --sides {input.sides:q} \
            --sft_train {output.train:q} --sft_val {output.val:q} --sft_test {output.test:q} \
            --ai_pool {output.ai:q} --human_pool {output.human:q} \
            --final_eval {output.final_eval:q} --summary {output.summary:q} \
            {params.plan} 2> >(tee {log:q} >&2)
        """


rule check_leakage:
    input:
        corpora=CORPUS_FILES,
        sides=study("splits/sides.csv"),
        train=study("splits/sft_train.jsonl"),
        val=study("splits/sft_val.jsonl"),
        test=study("splits/sft_test.jsonl"),
        ai=study("preferences/ai_pool_prompts.jsonl"),
        human=study("preferences/human_pool_prompts.jsonl"),
        final_eval=study("preferences/final_eval_prompts.jsonl"),
        pairs=study("processed/delta_pairs.jsonl"),
    output:
        study("splits/leakage.json"),
    log:
        study("logs/check_leakage.log"),
    benchmark:
        study("benchmarks/check_leakage.tsv")
    # What leaks leaks the second time too.
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(8_000),
        runtime=growing("2h"),
    params:
        folders=lambda wildcards, input: folders_of(input.corpora),
        settings=flags({key: DATA[key] for key in ("near_duplicate", "shingle_words")}),
        code=code("data.leakage"),
    message:
        "Checking that nothing leaks between sides and pools"
    shell:
        r"""
        python -m persuasion_rl.data.leakage \
            --corpora {params.folders:q} {params.settings} \
            --sides {input.sides:q} --pairs {input.pairs:q} \
            --sft train={input.train:q} val={input.val:q} test={input.test:q} \
            --pools ai={input.ai:q} human={input.human:q} final_eval={input.final_eval:q} \
            --output {output:q} 2> >(tee {log:q} >&2)
        """
