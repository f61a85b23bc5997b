"""
What leaves the study: models for other programs, and its data set.

NEEDS   the base model, adapters, the tables that model cards read; SFT rows, delta pairs, labels and pairs of the pools
MAKES   exported/{model}/: an ordinary folder of transformers, {model}.gguf, Modelfile, README.md;
        exported/dataset/: a folder that datasets.load_dataset reads
STEPS   export_model        the adapter merged into the base model's weights
        export_gguf         a GGUF file for llama.cpp and Ollama, and the Modelfile
        export_card         the model card of the merged model
        export_dataset      rows of the study as parquet, with a card (target export_dataset)
        publish_dataset     the data set on the Hub, where publish.dataset asks for it; published/dataset.json
"""

from persuasion_rl.study.code import template_digests


rule export_model:
    input:
        base=study.base_model,
        lineage=lambda wildcards: study.adapters(wildcards.model),
        parts=lambda wildcards: study.adapter_parts(wildcards.model),
    output:
        study.exported_files,
    log:
        study.path("logs/export_model/{model}.log"),
    benchmark:
        study.path("benchmarks/export_model/{model}.tsv")
    wildcard_constraints:
        model=one_of(study.models),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        mem_mb=memory.export,
        runtime=grows_with_attempt("1h"),
    params:
        base=place_of_base,
        folder=lambda wildcards, output: folder_of(output),
        settings=study.flags(
            "sampling.temperature",
            "sampling.top_p",
            "sampling.max_new_tokens",
            "trust_remote_code",
        ),
        code=code("export.export_model"),
    message:
        "Merging {wildcards.model} into its base model"
    shell:
        r"""
        python -m persuasion_rl.export.export_model \
            --base {params.base:q} --lineage {input.lineage:q} --output {params.folder:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule export_gguf:
    input:
        study.exported_files,
    output:
        gguf=study.path("exported/{model}/{model}.gguf"),
        modelfile=study.path("exported/{model}/Modelfile"),
    log:
        study.path("logs/export_gguf/{model}.log"),
    benchmark:
        study.path("benchmarks/export_gguf/{model}.tsv")
    wildcard_constraints:
        model=one_of(study.models),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("1h"),
    params:
        folder=lambda wildcards, input: folder_of(input),
        settings=lambda wildcards: flags(study.gguf_settings(wildcards.model)),
        code=code("export.export_gguf"),
    message:
        "Writing {wildcards.model} for llama.cpp and Ollama"
    shell:
        r"""
        python -m persuasion_rl.export.export_gguf \
            --model {params.folder:q} --output {output.gguf:q} --modelfile {output.modelfile:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


use rule write_model_card as export_card with:
    output:
        study.path("exported/{model}/README.md"),
    log:
        study.path("logs/export_card/{model}.log"),
    benchmark:
        study.path("benchmarks/export_card/{model}.tsv")
    params:
        settings=lambda wildcards: flags(
            study.card_settings(wildcards.model) | {"merged": True}
        ),
    message:
        "Writing the card of the merged {wildcards.model}"


rule export_dataset:
    input:
        unpack(lambda wildcards: as_inputs(study.dataset_inputs())),
        checked=study.path("splits/leakage.json"),
    output:
        study.dataset_files,
    log:
        study.path("logs/export_dataset.log"),
    benchmark:
        study.path("benchmarks/export_dataset.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("30m"),
    params:
        files=lambda wildcards, input: as_flags(input, study.dataset_inputs()),
        folder=subpath(output[0], parent=True),
        settings=flags(study.dataset_settings()),
        code=code("export.export_dataset"),
        template=template_digests("dataset_card.md"),
    message:
        "Writing the rows of the study as a data set"
    shell:
        r"""
        python -m persuasion_rl.export.export_dataset \
            {params.files} --output {params.folder:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule publish_dataset:
    input:
        study.dataset_files,
    output:
        study.path("published/dataset.json"),
    log:
        study.path("logs/publish_dataset.log"),
    benchmark:
        study.path("benchmarks/publish_dataset.tsv")
    localrule: True
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(1_000),
        runtime=grows_with_attempt("1h"),
    params:
        folder=subpath(input[0], parent=True),
        settings=flags(study.dataset_publication()),
    message:
        "Putting the rows of the study on the Hugging Face Hub"
    shell:
        r"""
        python -m persuasion_rl.report.publish_dataset \
            --folder {params.folder:q} --files {input:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """
