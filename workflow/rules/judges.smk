"""
The judges: the reward model that learns from deltas, and how far each judge can be trusted.

NEEDS   the base model, tokens/delta_pairs.parquet, processed/delta_pairs.jsonl, splits/sides.csv, the pools' labels
MAKES   judges/delta/: adapter_model.safetensors, adapter_config.json, metrics.json, history.jsonl, recipe.json;
        judges/trust.csv (unattended/trust.csv without people's labels)
STEPS   train_delta_judge   a reward model on delta / no-delta pairs: train side, chosen on val
        judge_trust         accuracy on test-side pairs, agreement with the labels
"""


rule train_delta_judge:
    input:
        base=study.base_model,
        pairs=study.tokens("delta_pairs"),
        sides=study.path("splits/sides.csv"),
        checked=study.path("splits/leakage.json"),
    output:
        **study.delta_judge(),
    log:
        study.path("logs/train_delta_judge.log"),
    benchmark:
        study.path("benchmarks/train_delta_judge.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: study.threads
    resources:
        gpu=study.gpu,
        mem_mb=memory.delta_judge,
        runtime=grows_with_attempt("8h"),
    params:
        base=place_of_base,
        state=study.path("state/trainings/delta_judge"),
        recipe=flags(study.config.recipes.reward.settings()),
        settings=study.job_flags(seed=study.config.seed),
        tracking=uncompared(lambda wildcards: study.tracking_flags("delta_judge")),
        launch=lambda wildcards, input, resources: launcher(resources.gpu),  # not compared
        code=code("training.reward"),
    message:
        "Training the delta judge"
    shell:
        r"""
        {params.launch} persuasion_rl.training.reward \
            --base {params.base:q} --pairs {input.pairs:q} --sides {input.sides:q} \
            --adapter {output.adapter:q} --state {params.state:q} \
            {params.settings} {params.tracking} \
            {params.recipe} 2> >(tee {log:q} >&2)
        """


rule judge_trust:
    input:
        **judge_inputs("delta", "interplay", *study.llm),
        labels=declared(study.labels),
    output:
        reported(study.path("{folder,judges|unattended}/trust.csv"), "Judges"),
    log:
        study.path("logs/judge_trust/{folder}.log"),
    benchmark:
        study.path("benchmarks/judge_trust/{folder}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=study.gpu,
        mem_mb=memory.judging("delta"),
        runtime=lambda wildcards, attempt: judging_time(
            "llm" if study.llm else None, "2h", attempt
        ),
    params:
        judges=lambda wildcards: flags(
            {
                "judges": study.trusted_judges(scope_of_job(wildcards)),
                "shared": study.shared_weights(scope_of_job(wildcards)),
            }
        ),
        labels=named_inputs(labels=study.labels),
        settings=study.judge_flags("delta", *study.llm),
        place=judge_place,
        asking=uncompared(lambda wildcards: study.asking_flags(*study.llm)),
        draws=study.flags(draws="evaluation.bootstrap"),
        code=lambda wildcards: code(
            "judges.judge_trust",
            *study.judge_modules(*study.trusted_judges(scope_of_job(wildcards))),
        ),
    message:
        "Measuring how far the judges can be trusted"
    shell:
        r"""
        python -m persuasion_rl.judges.judge_trust {params.labels} \
            --output {output:q} {params.draws} \
            {params.judges} {params.settings} {params.place} {params.asking} 2> >(tee {log:q} >&2)
        """
