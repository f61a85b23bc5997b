"""
The base model and its tokenizer.

NEEDS   a network, or the train side of the corpora for a stand-in
MAKES   resources/models/{model}/, or results/{study}/models/base/ for a stand-in
STEPS   fetch_base_model    a pinned revision from the Hub
        pretrain_standin    a small model in Qwen2's architecture, train side only
"""


rule fetch_base_model:
    output:
        expand("resources/models/{{base}}/{name}", name=MODEL_FILES),
    log:
        "resources/models/{base}.log",
    benchmark:
        "resources/models/{base}.tsv"
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("2h"),
    params:
        folder=subpath(output[0], parent=True),
        origin=lambda wildcards: hub_flags(wildcards.base),
    message:
        "Downloading {wildcards.base}"
    shell:
        r"""
        python -m persuasion_rl.data.fetch fetch_base_model \
            {params.origin} --output {params.folder:q} 2> >(tee {log:q} >&2)
        """


rule pretrain_standin:
    input:
        corpora=CORPUS_FILES,
        sides=study("splits/sides.csv"),
    output:
        files=expand(study("models/base/{name}"), name=MODEL_FILES),
        history=study("models/base/history.json"),
    log:
        study("logs/pretrain_standin.log"),
    benchmark:
        study("benchmarks/pretrain_standin.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 2
    resources:
        mem_mb=growing(6_000),
        runtime=growing("1h"),
    params:
        folder=subpath(output.history, parent=True),
        folders=lambda wildcards, input: folders_of(input.corpora),
        settings=flags(STUDY["standin"] | {"seed": STUDY["seed"]}),
        code=code("training.standin"),
    message:
        "Training the stand-in base model on the train side"
    shell:
        r"""
        python -m persuasion_rl.training.standin \
            --corpora {params.folders:q} --sides {input.sides:q} \
            --output {params.folder:q} --history {output.history:q} \
            --threads {threads} {params.settings} 2> >(tee {log:q} >&2)
        """
