"""
persuasion-rl: does learning from replies that changed a mind make a small model more persuasive?

The front door: reads the study, includes the stages, names the targets that people ask for. A study is a
file in config/; without --configfile it is config/config.yaml.

TARGETS   data, sft, preferences, dpo, evaluation, report, unattended, export, export_dataset, publish, or any file under
          results/{study}/
"""

# Not `configfile:` alone: Snakemake would merge a study given by --configfile into this one, key by key.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/judges.smk"
include: "workflow/rules/replies.smk"
include: "workflow/rules/preferences.smk"
include: "workflow/rules/measures.smk"
include: "workflow/rules/comparison.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"


or_exit(
    refuse_files_as_folders,
    [path for each in workflow.rules for path in written_by(each)]
    + ([study.path("wandb/")] if study.config.wandb.mode != "off" else []),
)


limit_memory(workflow)


onstart:
    preflight.check(study, workflow)
    or_exit(study.keep_threads, prefix="error: ")


# On a cluster these run where Snakemake does: downloads need a network, which compute nodes often have not, and what is
# made of corpora takes one core. The others are targets.
localrules:
    fetch_base_model,
    fetch_corpus,
    fetch_package,
    synthesize_corpus,
    assign_sides,
    process_cmv,
    process_p4g,
    split,
    check_leakage,
    all,
    data,
    sft,
    preferences,
    dpo,
    evaluation,
    report,
    unattended,
    export,
    publish,


# Each target of a part of the study also records its settings (rules.record_config): `compare`, `annotate`, `chat` and
# `load_study` read them.

# The pages of what can be had now: without the human branch where that waits for people.
UNATTENDED = "unattended/" if study.waits_for_people else ""


rule all:
    default_target: True
    input:
        study.path("report.html"),
        rules.report_data.output,
        rules.record_config.output,
        expand(study.path("models/{model}/README.md"), model=study.trained()),


rule data:
    input:
        rules.report_data.output,
        rules.check_leakage.output,
        rules.record_config.output,


rule sft:
    input:
        study.models_adapters("sft"),
        rules.record_config.output,


rule preferences:
    input:
        expand(
            study.path("preferences/{pool}_{part}.jsonl"),
            pool=study.learned_pools,
            part=["train", "val"],
        ),
        rules.record_config.output,


rule dpo:
    input:
        study.models_adapters("dpo"),
        rules.record_config.output,


rule evaluation:
    input:
        list(study.tables("evaluation").values()),
        study.trust_table("evaluation"),
        rules.record_config.output,


rule report:
    input:
        rules.all.input,


rule unattended:
    input:
        study.path(f"{UNATTENDED}report.html"),
        rules.report_data.output,
        rules.record_config.output,
        # What people label (`persuasion-rl annotate`) and argue with.
        study.path("preferences/human_pool_responses.jsonl") if UNATTENDED else [],
        expand(
            study.path(f"{UNATTENDED}models/{{model}}/README.md"),
            model=study.trained(scope="unattended"),
        ),


# Never part of another target: it sends models away.
rule publish:
    input:
        expand(study.path("published/{model}.json"), model=study.trained()),
        [study.path("published/dataset.json")] if study.config.publish.dataset else [],


# Never part of another target: they are as large as the base model, one of each model.
rule export:
    input:
        expand(study.exported_files, model=study.trained()),
        expand(
            study.path("exported/{model}/{name}"),
            model=study.trained(),
            name=["Modelfile", "README.md"],
        ),
        expand(study.path("exported/{model}/{model}.gguf"), model=study.trained()),
