"""
From SFT rows to a supervised model.

NEEDS   the base model (and the parent's adapter), tokens/sft_train.parquet, tokens/sft_val.parquet
MAKES   models/{model}/: adapter_model.safetensors, adapter_config.json, metrics.json, history.jsonl,
        recipe.json
STEPS   train_sft   LoRA on the parent, loss on the response only
"""


rule train_sft:
    input:
        base=BASE_MODEL,
        lineage=lambda wildcards: adapters_above(wildcards.model),
        parts=lambda wildcards: parts_of(
            lineage(MODELS, MODELS[wildcards.model]["parent"])
        ),
        train=tokens("sft_train"),
        val=tokens("sft_val"),
        checked=study("splits/leakage.json"),
    output:
        **trained_files("sft"),
    log:
        study("logs/train_sft/{model}.log"),
    benchmark:
        study("benchmarks/train_sft/{model}.tsv")
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
        code=code("training.sft"),
    message:
        "Supervised fine-tuning of {wildcards.model}"
    shell:
        r"""
        {params.launch} persuasion_rl.training.sft \
            --base {params.base:q} --lineage {input.lineage:q} \
            --train {input.train:q} --val {input.val:q} \
            --adapter {output.adapter:q} --state {params.state:q} \
            --threads {threads} {params.settings} {params.tracking} \
            {params.recipe} 2> >(tee {log:q} >&2)
        """
