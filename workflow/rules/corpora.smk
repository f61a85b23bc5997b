"""
From ConvoKit or from the grammar of the embedded study to raw corpora, and every conversation's side.

NEEDS   a network (or corpora_dir), or nothing at all (world)
MAKES   resources/corpora/{corpus}/ or results/{study}/corpora/{corpus}/, splits/sides.csv,
        splits/near_duplicates.json
STEPS   synthesize_corpus   a synthetic ChangeMyView with a known delta function
        fetch_corpus        ConvoKit's download
        assign_sides        train, val or test by cluster of near-duplicate posts
"""


rule synthesize_corpus:
    output:
        conversations=study("corpora/{corpus}/conversations.json"),
        utterances=study("corpora/{corpus}/utterances.jsonl"),
        speakers=study("corpora/{corpus}/speakers.json"),
        corpus=study("corpora/{corpus}/corpus.json"),
        index=study("corpora/{corpus}/index.json"),
    log:
        study("logs/synthesize_corpus/{corpus}.log"),
    benchmark:
        study("benchmarks/synthesize_corpus/{corpus}.tsv")
    wildcard_constraints:
        corpus=one_of(DATA["cmv_corpora"] if SYNTHETIC else []),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        folder=subpath(output.conversations, parent=True),
        settings=flags((STUDY["world"] or {}) | {"seed": STUDY["seed"]}),
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
    # It tries again itself (downloads.retries).
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("4h"),
    params:
        folder=subpath(output.conversations, parent=True),
        name="{corpus}",
        settings=downloads,
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
        corpora=CORPUS_FILES,
    output:
        sides=study("splits/sides.csv"),
        duplicates=study("splits/near_duplicates.json"),
    log:
        study("logs/assign_sides.log"),
    benchmark:
        study("benchmarks/assign_sides.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(8_000),
        runtime=growing("2h"),
    params:
        folders=lambda wildcards, input: folders_of(input.corpora),
        settings=flags(
            DATA["split"]
            | {
                key: DATA[key]
                for key in ("near_duplicate", "official_split", "shingle_words")
            }
            | {"seed": STUDY["seed"]}
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
