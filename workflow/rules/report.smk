"""
What people read: the report, the model cards, the resolved configuration.

NEEDS   the tables and verdicts of the evaluation, judges/trust.csv, histories and metrics of all trainings, the
        splits
MAKES   report.html and figures/ (unattended/report.html marks the human branch as pending), data_report.html,
        models.csv and seeds.csv (unattended/ without the human branch), models/{model}/README.md
        (unattended/models/{model}.md), config.yaml
STEPS   report_data         the data: funnel, lengths, duplicates, topics, splits, random examples
        explore_data        the exploratory notebook, executed
        compare_models      trained models side by side, and the spread over seeds
        compare_models_unattended   the same of what needs no person
        report_study        the study on one page: tables, figures, replies side by side
        report_unattended   the same of what needs no person
        write_model_card    a model card
        write_model_card_unattended   the same of what needs no person
        publish_model       a model on the Hub, where somebody asks for it (target publish); published/{model}.json
        record_config       the configuration that the study was run with: a record, not an input
"""


rule report_data:
    input:
        counts=[study(f"processed/{source}_counts.json") for source in SOURCES],
        examples=EXAMPLES,
        summary=study("splits/summary.json"),
        duplicates=study("splits/near_duplicates.json"),
    output:
        shown(study("data_report.html"), "Study"),
    log:
        study("logs/report_data.log"),
    benchmark:
        study("benchmarks/report_data.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("30m"),
    params:
        counts=lambda wildcards, input: pairs_of(input.counts, SOURCES),
        examples=lambda wildcards, input: pairs_of(input.examples, SOURCES),
        settings=flags({"study": NAME, "synthetic": SYNTHETIC, "seed": STUDY["seed"]}),
        code=code("report.data_page"),
        template=templates("data_report.html", "style.html"),
    message:
        "Writing the page about the data"
    shell:
        r"""
        python -m persuasion_rl.report.data_page \
            --counts {params.counts:q} --examples {params.examples:q} \
            --summary {input.summary:q} --duplicates {input.duplicates:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule explore_data:
    input:
        pairs=study("processed/delta_pairs.jsonl"),
        train=study("splits/sft_train.jsonl"),
        val=study("splits/sft_val.jsonl"),
        test=study("splits/sft_test.jsonl"),
    output:
        lengths=study("exploration/lengths.svg"),
        sides=study("exploration/sides.csv"),
    log:
        notebook=study("exploration/explore_data.ipynb"),
    benchmark:
        study("benchmarks/explore_data.tsv")
    conda:
        "../../envs/notebook.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("30m"),
    params:
        code=code("tools.results"),  # what it imports; Snakemake compares the notebook itself by time
    message:
        "Running the exploratory notebook"
    notebook:
        "../notebooks/explore_data.py.ipynb"


rule compare_models:
    input:
        **compared_files("evaluation"),
    output:
        **{
            name: shown(path, "Models")
            for name, path in model_tables("evaluation").items()
        },
    log:
        study("logs/compare_models.log"),
    benchmark:
        study("benchmarks/compare_models.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(500),
        runtime=growing("10m"),
    params:
        metrics=lambda wildcards, input: pairs_of(
            input.metrics, reported_models("evaluation")
        ),
        recipes=lambda wildcards, input: pairs_of(
            input.recipes, reported_models("evaluation")
        ),
        settings=comparison_flags("evaluation"),
        code=code("report.models_table"),
    message:
        "Comparing the trained models"
    shell:
        r"""
        python -m persuasion_rl.report.models_table \
            --metrics {params.metrics:q} --recipes {params.recipes:q} \
            --models {output.models:q} --seeds {output.seeds:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


use rule compare_models as compare_models_unattended with:
    input:
        **compared_files("unattended"),
    output:
        **{
            name: shown(path, "Models")
            for name, path in model_tables("unattended").items()
        },
    log:
        study("logs/compare_models_unattended.log"),
    benchmark:
        study("benchmarks/compare_models_unattended.tsv")
    params:
        metrics=lambda wildcards, input: pairs_of(
            input.metrics, reported_models("unattended")
        ),
        recipes=lambda wildcards, input: pairs_of(
            input.recipes, reported_models("unattended")
        ),
        settings=comparison_flags("unattended"),
        code=code("report.models_table"),
    message:
        "Comparing the trained models that need no person"


rule report_study:
    input:
        **report_inputs("evaluation"),
    output:
        report=shown(study("report.html"), "Study"),
        figures=shown_figures(study("figures")),
    log:
        study("logs/report_study.log"),
    benchmark:
        study("benchmarks/report_study.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("30m"),
    params:
        settings=report_flags("evaluation"),
        code=code("report.study_page"),
        template=templates("report.html", "style.html"),
    message:
        "Writing the report"
    shell:
        r"""
        python -m persuasion_rl.report.study_page \
            {params.settings} --output {output.report:q} --figures {output.figures:q} 2> >(tee {log:q} >&2)
        """


use rule report_study as report_unattended with:
    input:
        **report_inputs("unattended"),
    output:
        report=shown(study("unattended/report.html"), "Study"),
        figures=shown_figures(study("unattended/figures")),
    log:
        study("logs/report_unattended.log"),
    benchmark:
        study("benchmarks/report_unattended.tsv")
    params:
        settings=report_flags("unattended"),
        code=code("report.study_page"),
        template=templates("report.html", "style.html"),
    message:
        "Writing the report of what needs no person"


rule write_model_card:
    input:
        **card_inputs("evaluation"),
    output:
        study("models/{model}/README.md"),
    log:
        study("logs/write_model_card/{model}.log"),
    benchmark:
        study("benchmarks/write_model_card/{model}.tsv")
    wildcard_constraints:
        model=one_of(trained_models()),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(500),
        runtime=growing("10m"),
    params:
        settings=lambda wildcards: card_flags(wildcards.model),
        code=code("report.model_card"),
        template=templates("model_card.md"),
    message:
        "Writing the model card of {wildcards.model}"
    shell:
        r"""
        python -m persuasion_rl.report.model_card \
            --metrics {input.metrics:q} --recipe {input.recipe:q} \
            --comparisons {input.comparisons:q} --behaviour {input.behaviour:q} \
            --honesty {input.honesty:q} --trust {input.trust:q} --splits {input.splits:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


use rule write_model_card as write_model_card_unattended with:
    input:
        **card_inputs("unattended"),
    output:
        study("unattended/models/{model}.md"),
    log:
        study("logs/write_model_card_unattended/{model}.log"),
    benchmark:
        study("benchmarks/write_model_card_unattended/{model}.tsv")


rule publish_model:
    input:
        weights=ADAPTER,
        settings=study("models/{model}/adapter_config.json"),
        recipe=study("models/{model}/recipe.json"),
        card=study("models/{model}/README.md"),
    output:
        study("published/{model}.json"),
    log:
        study("logs/publish_model/{model}.log"),
    benchmark:
        study("benchmarks/publish_model/{model}.tsv")
    wildcard_constraints:
        model=one_of(trained_models()),
    localrule: True
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(1_000),
        runtime=growing("1h"),
    params:
        folder=lambda wildcards, input: os.path.dirname(input.weights),
        settings=lambda wildcards: publish_flags(wildcards.model),
    message:
        "Putting {wildcards.model} on the Hugging Face Hub"
    shell:
        r"""
        python -m persuasion_rl.report.publish \
            --folder {params.folder:q} --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule record_config:
    output:
        study("config.yaml"),
    log:
        study("logs/record_config.log"),
    benchmark:
        study("benchmarks/record_config.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(500),
        runtime=growing("10m"),
    params:
        config=json.dumps(STUDY, sort_keys=True),
    message:
        "Recording the resolved configuration"
    shell:
        r"""
        python -m persuasion_rl.report.record \
            --config {params.config:q} --output {output:q} 2> >(tee {log:q} >&2)
        """
