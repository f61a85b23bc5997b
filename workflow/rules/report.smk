"""
What people read: the report, the model cards, the resolved configuration.

NEEDS   the tables of the evaluation, judges/trust.csv, histories and metrics of all trainings, the splits
MAKES   report.html (unattended/report.html marks the human branch as pending), models/{model}/README.md,
        config.yaml
STEPS   report_study        the study on one page: tables, figures, replies side by side
        report_unattended   the same of what needs no person
        write_model_card    a model card
        record_config       the configuration that the study was run with: a record, not an input
"""


rule report_study:
    input:
        **report_inputs("evaluation"),
    output:
        report=study("report.html"),
    log:
        study("logs/report_study.log"),
    benchmark:
        study("benchmarks/report_study.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=2_000,
        runtime="30m",
    params:
        settings=report_flags("evaluation"),
        code=code("report"),
        template=digest_of(REPORT_TEMPLATE),
    message:
        "Writing the report"
    shell:
        r"""
        python -m persuasion_rl.report \
            {params.settings} --output {output.report:q} 2> >(tee {log:q} >&2)
        """


use rule report_study as report_unattended with:
    input:
        **report_inputs("unattended"),
    output:
        report=study("unattended/report.html"),
    log:
        study("logs/report_unattended.log"),
    benchmark:
        study("benchmarks/report_unattended.tsv")
    params:
        settings=report_flags("unattended"),
        code=code("report"),
        template=digest_of(REPORT_TEMPLATE),
    message:
        "Writing the report of what needs no person"


rule write_model_card:
    input:
        metrics=study("models/{model}/metrics.json"),
        recipe=study("models/{model}/recipe.json"),
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
        mem_mb=500,
        runtime="10m",
    params:
        settings=lambda wildcards: card_flags(wildcards.model),
        code=code("model_card"),
    message:
        "Writing the model card of {wildcards.model}"
    shell:
        r"""
        python -m persuasion_rl.model_card \
            --metrics {input.metrics:q} --recipe {input.recipe:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
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
        mem_mb=500,
        runtime="10m",
    params:
        config=json.dumps(STUDY, sort_keys=True),
    message:
        "Recording the resolved configuration"
    shell:
        r"""
        python -m persuasion_rl.record \
            --config {params.config:q} --output {output:q} 2> >(tee {log:q} >&2)
        """
