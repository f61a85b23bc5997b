"""
persuasion-rl: does learning from replies that changed a mind make a small model more persuasive?

The front door: reads the study, includes the stages, names the targets that people ask for. A study is a
file in config/; without --configfile it is config/config.yaml.

TARGETS   data, sft, preferences, dpo, evaluation, report, unattended, publish, or any file under results/{study}/
"""

# Not `configfile:` alone: Snakemake would merge a study given by --configfile into this one, key by key.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/base_model.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/sft.smk"
include: "workflow/rules/judges.smk"
include: "workflow/rules/preferences.smk"
include: "workflow/rules/dpo.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"


# Where jobs run on this machine, a GPU or a key that the study needs and that is missing is said before the first of
# them; jobs of a cluster look for themselves.
onstart:
    jobs = list(workflow.dag.needrun_jobs())
    if workflow.non_local_exec:
        refuse_to_lose_answers(jobs, workflow.storage_settings)
    else:
        refuse_without_gpu(jobs)
        refuse_without_key(jobs)


# On a cluster these run where Snakemake does: downloads need a network, which compute nodes often have not, and what is
# made of corpora takes one core. The others are targets.
localrules:
    fetch_base_model,
    fetch_corpus,
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
    publish,


rule all:
    default_target: True
    input:
        rules.report_study.output.report,
        rules.report_data.output,
        rules.record_config.output,
        expand(study("models/{model}/README.md"), model=trained_models()),


rule data:
    input:
        rules.report_data.output,
        rules.check_leakage.output,


rule sft:
    input:
        expand(ADAPTER, model=trained_models(method="sft")),


rule preferences:
    input:
        expand(
            study("preferences/{pool}_{part}.jsonl"), pool=POOLS, part=["train", "val"]
        ),


rule dpo:
    input:
        expand(ADAPTER, model=trained_models(method="dpo")),


rule evaluation:
    input:
        evaluation_tables("evaluation"),
        rules.judge_trust.output,


rule report:
    input:
        rules.all.input,


rule unattended:
    input:
        rules.report_unattended.output if WAITS_FOR_PEOPLE else rules.all.input,
        rules.report_data.output,
        rules.record_config.output,
        # What people label (`persuasion-rl annotate`) and argue with.
        study("preferences/human_pool_responses.jsonl") if WAITS_FOR_PEOPLE else [],
        expand(
            study(
                "unattended/models/{model}.md"
                if WAITS_FOR_PEOPLE
                else "models/{model}/README.md"
            ),
            model=trained_models(unattended=True),
        ),


# Never part of another target: it sends models away.
rule publish:
    input:
        expand(study("published/{model}.json"), model=trained_models()),
