"""
What people read: the report, the model cards, the resolved configuration.

NEEDS   the tables and verdicts of the evaluation, judges/trust.csv, histories and metrics of all trainings, the splits
MAKES   data_report.html, models.csv and seeds.csv, report.html and figures/, models/{model}/README.md, config.yaml. Under
        unattended/ all but the first and the last of them without the human branch, which the report marks as pending
STEPS   report_data         the data: funnel, lengths, duplicates, topics, splits, random examples
        explore_data        the exploratory notebook, executed
        compare_models      trained models side by side, and the spread over seeds
        report_study        the study on one page: tables, figures, replies side by side
        write_model_card    a model card
        publish_model       a model on the Hub, where somebody asks for it (target publish); published/{model}.json
        record_config       the configuration that the study was run with: a record, not an input
"""

from persuasion_rl.settings import as_words
from persuasion_rl.study.code import template_digests

VOTED = ARENA_VOTES != "none"
BRANCH = "{branch,|unattended/}"
"""In a path: nothing, or the folder of what needs no person. Without `?`, since a storage takes that for a query."""


rule report_data:
    input:
        counts=declared(study.example_counts),
        examples=declared(study.examples),
        summary=study.path("splits/summary.json"),
        duplicates=study.path("splits/near_duplicates.json"),
    output:
        reported(study.path("data_report.html"), "Study"),
    log:
        study.path("logs/report_data.log"),
    benchmark:
        study.path("benchmarks/report_data.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("30m"),
    params:
        sources=named_inputs(counts=study.example_counts, examples=study.examples),
        synthetic=flags({"synthetic": study.synthetic}),
        settings=study.flags("study", "seed"),
        code=code("report.report_data"),
        template=template_digests("data_report.html", "style.html"),
    message:
        "Writing the page about the data"
    shell:
        r"""
        python -m persuasion_rl.report.report_data {params.sources} \
            --summary {input.summary:q} --duplicates {input.duplicates:q} --output {output:q} \
            {params.synthetic} {params.settings} 2> >(tee {log:q} >&2)
        """


rule explore_data:
    input:
        pairs=study.path("processed/delta_pairs.jsonl"),
        train=study.path("splits/sft_train.jsonl"),
        val=study.path("splits/sft_val.jsonl"),
        test=study.path("splits/sft_test.jsonl"),
    output:
        lengths=study.path("exploration/lengths.svg"),
        sides=study.path("exploration/sides.csv"),
    log:
        notebook=study.path("exploration/explore_data.ipynb"),
    benchmark:
        study.path("benchmarks/explore_data.tsv")
    conda:
        "../../envs/notebook.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("30m"),
    params:
        code=code("tools.results"),  # what it imports; Snakemake compares the notebook itself by time
    message:
        "Running the exploratory notebook"
    notebook:
        "../notebooks/explore_data.py.ipynb"


rule compare_models:
    input:
        metrics=declared(study.metrics),
        recipes=declared(study.recipes),
    output:
        models=reported(study.path(f"{BRANCH}models.csv"), "Models"),
        seeds=reported(study.path(f"{BRANCH}seeds.csv"), "Models"),
    log:
        study.path("logs/{branch}compare_models.log"),
    benchmark:
        study.path("benchmarks/{branch}compare_models.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(500),
        runtime=grows_with_attempt("10m"),
    params:
        models=named_inputs(metrics=study.metrics, recipes=study.recipes),
        settings=lambda wildcards: flags(study.comparison(scope_of_job(wildcards))),
        code=code("report.compare_models"),
    message:
        "Comparing the trained models"
    shell:
        r"""
        python -m persuasion_rl.report.compare_models {params.models} \
            --models {output.models:q} --seeds {output.seeds:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule report_study:
    input:
        unpack(
            lambda wildcards: as_inputs(
                study.report_files(scope_of_job(wildcards), VOTED)
            )
        ),
    output:
        report=reported(study.path(f"{BRANCH}report.html"), "Study"),
        figures=reported_figures(study.path(f"{BRANCH}figures")),
    log:
        study.path("logs/{branch}report_study.log"),
    benchmark:
        study.path("benchmarks/{branch}report_study.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("30m"),
    params:
        files=lambda wildcards, input: as_flags(
            input, study.report_files(scope_of_job(wildcards), VOTED)
        ),
        settings=lambda wildcards: flags(study.report_settings(scope_of_job(wildcards))),
        code=code("report.report_study"),
        template=template_digests("report.html", "style.html"),
    message:
        "Writing the report"
    shell:
        r"""
        python -m persuasion_rl.report.report_study \
            {params.files} {params.settings} \
            --output {output.report:q} --figures {output.figures:q} 2> >(tee {log:q} >&2)
        """


rule write_model_card:
    input:
        unpack(
            lambda wildcards: study.card_files(
                wildcards.model, scope_of_job(wildcards)
            )
        ),
    output:
        study.path(f"{BRANCH}models/{{model}}/README.md"),
    log:
        study.path("logs/{branch}write_model_card/{model}.log"),
    benchmark:
        study.path("benchmarks/{branch}write_model_card/{model}.tsv")
    wildcard_constraints:
        model=one_of(study.trained()),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(500),
        runtime=grows_with_attempt("10m"),
    params:
        origin=lambda wildcards, input: flags({"origin": input.get("origin")}),
        settings=lambda wildcards: flags(study.card_settings(wildcards.model)),
        code=code("report.write_model_card"),
        template=template_digests("model_card.md"),
    message:
        "Writing the model card of {wildcards.model}"
    shell:
        r"""
        python -m persuasion_rl.report.write_model_card \
            --metrics {input.metrics:q} --recipe {input.recipe:q} \
            --comparisons {input.comparisons:q} --behaviour {input.behaviour:q} \
            --honesty {input.honesty:q} --trust {input.trust:q} --splits {input.splits:q} --output {output:q} \
            {params.origin} {params.settings} 2> >(tee {log:q} >&2)
        """


rule publish_model:
    input:
        weights=study.path("models/{model}/adapter_model.safetensors"),
        settings=study.path("models/{model}/adapter_config.json"),
        recipe=study.path("models/{model}/recipe.json"),
        card=study.path("models/{model}/README.md"),
    output:
        study.path("published/{model}.json"),
    log:
        study.path("logs/publish_model/{model}.log"),
    benchmark:
        study.path("benchmarks/publish_model/{model}.tsv")
    wildcard_constraints:
        model=one_of(study.trained()),
    localrule: True
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(1_000),
        runtime=grows_with_attempt("1h"),
    params:
        folder=lambda wildcards, input: folder_of([input.weights]),
        settings=lambda wildcards: flags(study.publication(wildcards.model)),
    message:
        "Putting {wildcards.model} on the Hugging Face Hub"
    shell:
        r"""
        python -m persuasion_rl.report.publish_model \
            --folder {params.folder:q} --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule record_config:
    output:
        study.path("config.yaml"),
    log:
        study.path("logs/record_config.log"),
    benchmark:
        study.path("benchmarks/record_config.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(500),
        runtime=grows_with_attempt("10m"),
    params:
        settings=flags({"settings": as_words(study.recorded_settings())}),
    message:
        "Recording the resolved configuration"
    shell:
        r"""
        python -m persuasion_rl.report.record_config \
            --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """
