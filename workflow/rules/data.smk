"""
From corpora to examples, delta pairs, SFT rows and the prompts of the three pools.

NEEDS   a network (or corpora_dir), or nothing at all (world); the base model's tokenizer
MAKES   resources/corpora/{corpus}/ or results/{study}/corpora/{corpus}/, splits/sides.csv, splits/near_duplicates.json,
        processed/{source}_examples.jsonl, processed/delta_pairs.jsonl, splits/sft_{side}.jsonl,
        preferences/{pool}_pool_prompts.jsonl, preferences/final_eval_prompts.jsonl
STEPS   synthesize_corpus   a synthetic ChangeMyView with a known delta function
        fetch_corpus        ConvoKit's download
        assign_sides        train, val or test by cluster of near-duplicate posts
        process_cmv         replies that won a delta, cleaned, within the token budget; delta pairs
        process_p4g         the persuader's turns
        split               SFT rows by side, prompts by pool
        check_leakage       fails where a conversation or a near-duplicate stands in two places
"""

EXAMPLE_BUDGET = study.flags(
    "data.max_context_tokens",
    "data.max_seq_length",
    "data.max_tokens",
    "data.min_tokens",
    "data.prompt_format",
)


rule synthesize_corpus:
    output:
        conversations=study.path("corpora/{corpus}/conversations.json"),
        utterances=study.path("corpora/{corpus}/utterances.jsonl"),
        speakers=study.path("corpora/{corpus}/speakers.json"),
        corpus=study.path("corpora/{corpus}/corpus.json"),
        index=study.path("corpora/{corpus}/index.json"),
    log:
        study.path("logs/synthesize_corpus/{corpus}.log"),
    benchmark:
        study.path("benchmarks/synthesize_corpus/{corpus}.tsv")
    wildcard_constraints:
        corpus=one_of(study.config.data.cmv_corpora if study.synthetic else []),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        folder=subpath(output.conversations, parent=True),
        settings=study.flags("world.*", "seed") if study.synthetic else "",
        code=code("data.synthetic.synthesize"),
    message:
        "Writing a synthetic ChangeMyView"
    shell:
        r"""
        python -m persuasion_rl.data.synthetic.synthesize \
            --corpus {params.folder:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule fetch_corpus:
    output:
        conversations="resources/corpora/{corpus}/conversations.json",
        utterances="resources/corpora/{corpus}/utterances.jsonl",
    log:
        "resources/corpora/{corpus}.log",
    benchmark:
        "resources/corpora/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(study.corpora_names),
    # It tries again itself (downloads.retries).
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("4h"),
    params:
        folder=subpath(output.conversations, parent=True),
        name="{corpus}",
        settings=uncompared(lambda wildcards: study.flags("downloads.*")),
    message:
        "Downloading {wildcards.corpus}"
    shell:
        r"""
        python -m persuasion_rl.data.fetch fetch_corpus \
            --name {params.name:q} --output {params.folder:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule assign_sides:
    input:
        corpora=study.corpus_files("conversations.json", "utterances.jsonl"),
    output:
        sides=study.path("splits/sides.csv"),
        duplicates=study.path("splits/near_duplicates.json"),
    log:
        study.path("logs/assign_sides.log"),
    benchmark:
        study.path("benchmarks/assign_sides.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(8_000),
        runtime=grows_with_attempt("2h"),
    params:
        folders=corpus_folders,
        order=study.flags("data.cmv_corpora"),
        settings=study.flags(
            "data.split.*",
            "data.near_duplicate",
            "data.official_split",
            "data.shingle_words",
            "seed",
        ),
        code=code("data.sides"),
    message:
        "Assigning conversations to train, val and test"
    shell:
        r"""
        python -m persuasion_rl.data.sides \
            --corpora {params.folders:q} \
            --output {output.sides:q} --duplicates {output.duplicates:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule process_cmv:
    input:
        corpora=[f"{folder}/utterances.jsonl" for folder in study.cmv_corpora],
        conversations=[f"{folder}/conversations.json" for folder in study.cmv_corpora],
        tokenizer=f"{study.base_folder}/tokenizer.json",
        beside=study.beside_tokenizer,
    output:
        examples=study.path("processed/cmv_examples.jsonl"),
        pairs=study.path("processed/delta_pairs.jsonl"),
        counts=study.path("processed/cmv_counts.json"),
    log:
        study.path("logs/process_cmv.log"),
    benchmark:
        study.path("benchmarks/process_cmv.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(8_000),
        runtime=grows_with_attempt("4h"),
    params:
        folders=corpus_folders,
        order=study.flags("data.cmv_corpora"),
        budget=EXAMPLE_BUDGET,
        room=uncompared(lambda wildcards: study.prompt_room),
        code=code("data.cmv"),
    message:
        "Making examples from ChangeMyView"
    shell:
        r"""
        python -m persuasion_rl.data.cmv \
            --corpora {params.folders:q} --tokenizer {input.tokenizer:q} \
            --examples {output.examples:q} --pairs {output.pairs:q} --counts {output.counts:q} \
            {params.budget} {params.room} 2> >(tee {log:q} >&2)
        """


rule process_p4g:
    input:
        corpora=[f"{folder}/utterances.jsonl" for folder in study.p4g_corpora],
        conversations=[f"{folder}/conversations.json" for folder in study.p4g_corpora],
        tokenizer=f"{study.base_folder}/tokenizer.json",
        beside=study.beside_tokenizer,
    output:
        examples=study.path("processed/p4g_examples.jsonl"),
        counts=study.path("processed/p4g_counts.json"),
    log:
        study.path("logs/process_p4g.log"),
    benchmark:
        study.path("benchmarks/process_p4g.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("1h"),
    params:
        folders=corpus_folders,
        budget=EXAMPLE_BUDGET,
        room=uncompared(lambda wildcards: study.prompt_room),
        settings=study.flags(
            "seed",
            donation_weighted="data.p4g_donation_weighted",
            max_examples="data.max_p4g_examples",
        ),
        code=code("data.p4g"),
    message:
        "Making examples from PersuasionForGood"
    shell:
        r"""
        python -m persuasion_rl.data.p4g \
            --corpus {params.folders:q} --tokenizer {input.tokenizer:q} \
            --examples {output.examples:q} --counts {output.counts:q} \
            {params.settings} {params.budget} {params.room} 2> >(tee {log:q} >&2)
        """


rule split:
    input:
        examples=list(study.examples().values()),
        sides=study.path("splits/sides.csv"),
    output:
        train=study.path("splits/sft_train.jsonl"),
        val=study.path("splits/sft_val.jsonl"),
        test=study.path("splits/sft_test.jsonl"),
        ai=study.path("preferences/ai_pool_prompts.jsonl"),
        human=study.path("preferences/human_pool_prompts.jsonl"),
        final_eval=study.path("preferences/final_eval_prompts.jsonl"),
        summary=study.path("splits/summary.json"),
    log:
        study.path("logs/split.log"),
    benchmark:
        study.path("benchmarks/split.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("30m"),
    params:
        sizes=flags(study.split_sizes()),
        settings=study.flags(
            "data.ai_pool_size",
            "data.final_eval_size",
            "data.human_pool_size",
            "data.on_shortage",
            "data.pool_source",
            "data.use_val_set",
            "seed",
        ),
        code=code("data.split"),
    message:
        "Splitting examples into sides and pools"
    shell:
        r"""
        python -m persuasion_rl.data.split \
            --examples {input.examples:q} --sides {input.sides:q} \
            --sft_train {output.train:q} --sft_val {output.val:q} --sft_test {output.test:q} \
            --ai_pool {output.ai:q} --human_pool {output.human:q} \
            --final_eval {output.final_eval:q} --summary {output.summary:q} \
            {params.sizes} {params.settings} 2> >(tee {log:q} >&2)
        """


rule check_leakage:
    input:
        corpora=study.corpus_files("conversations.json", "utterances.jsonl"),
        sides=study.path("splits/sides.csv"),
        train=study.path("splits/sft_train.jsonl"),
        val=study.path("splits/sft_val.jsonl"),
        test=study.path("splits/sft_test.jsonl"),
        ai=study.path("preferences/ai_pool_prompts.jsonl"),
        human=study.path("preferences/human_pool_prompts.jsonl"),
        final_eval=study.path("preferences/final_eval_prompts.jsonl"),
        pairs=study.path("processed/delta_pairs.jsonl"),
    output:
        study.path("splits/leakage.json"),
    log:
        study.path("logs/check_leakage.log"),
    benchmark:
        study.path("benchmarks/check_leakage.tsv")
    # What leaks leaks the second time too.
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(8_000),
        runtime=grows_with_attempt("2h"),
    params:
        folders=corpus_folders,
        order=study.flags("data.cmv_corpora"),
        settings=study.flags("data.near_duplicate", "data.shingle_words"),
        code=code("data.leakage"),
    message:
        "Checking that nothing leaks between sides and pools"
    shell:
        r"""
        python -m persuasion_rl.data.leakage \
            --corpora {params.folders:q} {params.settings} \
            --sides {input.sides:q} --pairs {input.pairs:q} \
            --sft train={input.train:q} val={input.val:q} test={input.test:q} \
            --pools ai={input.ai:q} human={input.human:q} final_eval={input.final_eval:q} \
            --output {output:q} 2> >(tee {log:q} >&2)
        """
