"""
From preference pairs to a preference-optimised model.

NEEDS   the base model, the adapters down to the parent's, tokens/{pool}_train.parquet and _val.parquet
MAKES   models/{model}/: adapter_model.safetensors, adapter_config.json, metrics.json, history.jsonl,
        recipe.json
STEPS   train_dpo   continues the parent's adapter, with the parent as the reference
"""


rule train_dpo:
    input:
        base=BASE_MODEL,
        lineage=lambda wildcards: adapters_above(wildcards.model),
        parts=lambda wildcards: parts_of(
            lineage(MODELS, MODELS[wildcards.model]["parent"])
        ),
        train=lambda wildcards: tokens(f"{MODELS[wildcards.model]['pool']}_train"),
        val=lambda wildcards: tokens(f"{MODELS[wildcards.model]['pool']}_val"),
    output:
        **trained_files("dpo"),
    log:
        study("logs/train_dpo/{model}.log"),
    benchmark:
        study("benchmarks/train_dpo/{model}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(12_000),
        runtime=growing("8h"),
    params:
        base=base_of,
        state=study("state/trainings/{model}"),
        recipe=lambda wildcards: recipe_flags(wildcards.model),
        settings=lambda wildcards: training_flags(wildcards.model),
        tracking=tracking,
        launch=launcher,
        code=code("training.dpo"),
    message:
        "Preference optimisation of {wildcards.model}"
    shell:
        r"""
        {params.launch} persuasion_rl.training.dpo \
            --base {params.base:q} --lineage {input.lineage:q} \
            --train {input.train:q} --val {input.val:q} \
            --adapter {output.adapter:q} --state {params.state:q} \
            --threads {threads} {params.settings} {params.tracking} \
            {params.recipe} 2> >(tee {log:q} >&2)
        """
