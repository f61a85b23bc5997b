"""
The judges: the reward model that learns from deltas, and how far each judge can be trusted.

NEEDS   the base model, tokens/delta_pairs.parquet, processed/delta_pairs.jsonl, splits/sides.csv, the
        pools' labels
MAKES   judges/delta/: adapter_model.safetensors, adapter_config.json, metrics.json, history.jsonl,
        recipe.json; judges/trust.csv
STEPS   train_delta_judge   a reward model on delta / no-delta pairs: train side, chosen on val
        judge_trust         accuracy on test-side pairs, agreement with the labels
        judge_trust_unattended   the same without people's labels
"""


rule train_delta_judge:
    input:
        base=BASE_MODEL,
        pairs=tokens("delta_pairs"),
        sides=study("splits/sides.csv"),
        checked=study("splits/leakage.json"),
    output:
        adapter=DELTA_ADAPTER,
        config=study("judges/delta/adapter_config.json"),
        metrics=study("judges/delta/metrics.json"),
        history=study("judges/delta/history.jsonl"),
        recipe=study("judges/delta/recipe.json"),
    log:
        study("logs/train_delta_judge.log"),
    benchmark:
        study("benchmarks/train_delta_judge.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(12_000),
        runtime=growing("8h"),
    params:
        base=base_of,
        state=study("state/trainings/delta_judge"),
        recipe=flags(STUDY["recipes"]["reward"]),
        settings=flags(
            {
                **MODEL_SETTINGS,
                "seed": STUDY["seed"],
            }
        ),
        tracking=tracking,
        launch=launcher,
        code=code("training.reward"),
    message:
        "Training the delta judge"
    shell:
        r"""
        {params.launch} persuasion_rl.training.reward \
            --base {params.base:q} --pairs {input.pairs:q} --sides {input.sides:q} \
            --adapter {output.adapter:q} --state {params.state:q} \
            --threads {threads} {params.settings} {params.tracking} \
            {params.recipe} 2> >(tee {log:q} >&2)
        """


rule judge_trust:
    input:
        base=BASE_MODEL,
        delta=delta_judge_for(["delta"]),
        rubric=rubric_for(LLM),
        pairs=study("processed/delta_pairs.jsonl"),
        sides=study("splits/sides.csv"),
        labels=expand(
            study("preferences/{pool}_pool_labels.jsonl"),
            pool=labelled_pools("evaluation"),
        ),
    output:
        shown(trust_table("evaluation"), "Judges"),
    log:
        study("logs/judge_trust.log"),
    benchmark:
        study("benchmarks/judge_trust.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(8_000),
        runtime=lambda wildcards, attempt: judging_time(LLM, "2h", attempt),
    params:
        judges=trust_flags("evaluation"),
        labels=lambda wildcards, input: pairs_of(
            input.labels, labelled_pools("evaluation")
        ),
        settings=judge_flags(["delta", *LLM]),
        place=judge_place,
        asking=lambda wildcards, input: asking(LLM),
        draws=STUDY["evaluation"]["bootstrap"],
        code=code("judges.judge_trust", *judge_modules(*trusted_judges("evaluation"))),
    message:
        "Measuring how far the judges can be trusted"
    shell:
        r"""
        python -m persuasion_rl.judges.judge_trust \
            --delta_pairs {input.pairs:q} --sides {input.sides:q} --labels {params.labels:q} \
            --output {output:q} --draws {params.draws} --threads {threads} \
            {params.judges} {params.settings} {params.place} {params.asking} 2> >(tee {log:q} >&2)
        """


use rule judge_trust as judge_trust_unattended with:
    input:
        base=BASE_MODEL,
        delta=delta_judge_for(["delta"]),
        rubric=rubric_for(LLM),
        pairs=study("processed/delta_pairs.jsonl"),
        sides=study("splits/sides.csv"),
        labels=expand(
            study("preferences/{pool}_pool_labels.jsonl"),
            pool=labelled_pools("unattended"),
        ),
    output:
        shown(trust_table("unattended"), "Judges"),
    log:
        study("logs/judge_trust_unattended.log"),
    benchmark:
        study("benchmarks/judge_trust_unattended.tsv")
    params:
        judges=trust_flags("unattended"),
        labels=lambda wildcards, input: pairs_of(
            input.labels, labelled_pools("unattended")
        ),
        settings=judge_flags(["delta", *LLM]),
        place=judge_place,
        asking=lambda wildcards, input: asking(LLM),
        draws=STUDY["evaluation"]["bootstrap"],
        code=code("judges.judge_trust", *judge_modules(*trusted_judges("unattended"))),
    message:
        "Measuring how far the judges can be trusted, without people's labels"
