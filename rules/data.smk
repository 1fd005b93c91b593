# Published files to corpora, model folders and token ids: fetch_source, build_corpus, prepare_model, tokenize_corpus, hash_texts.
#
# REQUIRED INPUTS: config/datasets.yaml and config/models.yaml (what to fetch, with its SHA-256); a network for
#   fetch_source only, and only for files missing from results/raw; for your own dataset, its tables; for hub models, a network
#   or files placed by hand in results/raw/hub/{checkpoint, with -- for /}.
# OUTPUTS: results/raw/{filename}; results/data/{dataset}/corpus; results/models/{model}, a folder that AutoModel and
#   AutoTokenizer can read; results/data/{dataset}/tokens/{model}-{max_len}; results/data/{dataset}/lexical.


rule fetch_source:
    """Download one published file and check its SHA-256. A file with that hash, placed by hand, is kept."""
    input:
        # Contains the declared hash. If the hash changes, this file becomes newer than the raw file, downloaded or placed by hand.
        DECLARED,
    output:
        # `update` keeps Snakemake from deleting the file before the job, which checks it first.
        update(RAW),
    retries: 1
    resources:
        mem_mb=1000,
        # The largest file, which contains embeddings of LF-AmazonTitles-1.3M, has about 30 GB.
        runtime=720,
        source=lambda wildcards: SOURCE_OF[wildcards.filename],
    params:
        sha256=lambda wildcards: WORLD.sources[SOURCE_OF[wildcards.filename]].sha256,
    message:
        "Fetch {wildcards.filename}"
    shell:
        "vixml download {resources.source:q} --replace 2>&1 | logged {log:q}"


rule build_corpus:
    """Turn a dataset's files into texts, label matrices and image lists."""
    input:
        unpack(reads("build-corpus")),
        tables=lambda wildcards: own_tables(wildcards.dataset)[0],
    output:
        made_by("build-corpus"),
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "Build the corpus of {wildcards.dataset}"
    shell:
        "vixml build-corpus {wildcards.dataset} 2>&1 | logged {log:q}"


rule prepare_model:
    """Make a language model's folder from published files, and check every tensor."""
    input:
        unpack(reads("prepare-model")),
    output:
        made_by("prepare-model"),
    resources:
        mem_mb=4000,
        runtime=240,  # downloads a checkpoint of 15 GB
    message:
        "Prepare the language model {wildcards.model}"
    shell:
        "vixml prepare-model {wildcards.model} 2>&1 | logged {log:q}"


rule tokenize_corpus:
    """Tokenize every text of a corpus, once."""
    input:
        unpack(reads("tokenize")),
    output:
        made_by("tokenize"),
    threads: THREADS.images
    resources:
        mem_mb=4000,
        runtime=120,
    message:
        "Tokenize {wildcards.dataset} for {wildcards.model}, {wildcards.max_len} tokens per text"
    shell:
        "vixml tokenize {wildcards.dataset} {wildcards.model} --max-len {wildcards.max_len} 2>&1 | logged {log:q}"


rule hash_texts:
    """Hash the TF-IDF of every text of a corpus to a lexical vector."""
    input:
        unpack(reads("hash-texts")),
    output:
        made_by("hash-texts"),
    resources:
        mem_mb=4000,
        runtime=120,
    message:
        "Hash the texts of {wildcards.dataset}"
    shell:
        "vixml hash-texts {wildcards.dataset} 2>&1 | logged {log:q}"
