# Images to embeddings: render_images or fetch_images, prepare_vision, embed_images; or, if published, import_vectors.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus (which images); results/raw/{filename} (drawings, vision weights, embeddings); for
#   vision models of the hub a network, or their files placed by hand in results/raw/hub/{checkpoint, with -- for /}.
# OUTPUTS: results/data/{dataset}/images; results/vision/{vision}; results/data/{dataset}/bank/{vision}.

# Which of the two rules makes a dataset's images; the pattern matches nothing if there is no dataset of that kind.
FETCHED = "|".join(re.escape(name) for name, entry in WORLD.datasets.items() if entry.fetches) or "(?!)"

# Which embeddings are imported: a pattern of a dataset with a look-ahead at the encoder.
IMPORTED = (
    "|".join(
        f"{re.escape(name)}(?=/bank/{re.escape(vision)}/)"
        for name, entry in WORLD.datasets.items()
        for vision in entry.published_vectors
        if is_published(name, vision)
    )
    or "(?!)"
)


rule fetch_images:
    """Fetch every image of a corpus from the web into one image store; resume if interrupted."""
    input:
        corpus=CORPUS,
    output:
        IMAGES,
    log:
        f"{LOGS}/fetch_images/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/fetch_images/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=FETCHED,
    priority: 10000
    conda:
        ENVIRONMENT
    threads: THREADS.images
    resources:
        mem_mb=8000,
        runtime=7 * 24 * 60,
    params:
        settings=fetching_settings,
        code=code("fetch-images"),
    message:
        "Fetch the pictures of {wildcards.dataset}"
    shell:
        """
        vixml fetch-images --dataset {wildcards.dataset} --corpus $(dirname {input.corpus}) \
            --out $(dirname {output}) --threads {threads} --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """


rule render_images:
    """Render every image of a corpus into one image store."""
    input:
        raw=raw_of_dataset,
        corpus=CORPUS,
    output:
        IMAGES,
    log:
        f"{LOGS}/render_images/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/render_images/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=f"(?!(?:{FETCHED})/)[A-Za-z0-9][A-Za-z0-9.\\-]*",
    # Before any training that could start meanwhile, because the longest trainings wait for images.
    priority: 10000
    conda:
        ENVIRONMENT
    threads: THREADS.images
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=drawing_settings,
        code=code("render-images"),
    message:
        "Draw the pictures of {wildcards.dataset}"
    shell:
        """
        vixml render-images --dataset {wildcards.dataset} --corpus $(dirname {input.corpus}) --raw "$VIXML_RAW_DIR" \
            --out $(dirname {output}) --threads {threads} --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """


rule prepare_vision:
    """Make the folder of a hub vision model, its vision tower only, checked against its architecture."""
    output:
        VISION_MODEL,
    log:
        f"{LOGS}/prepare_vision/{{vision}}.log",
    benchmark:
        f"{BENCHMARKS}/prepare_vision/{{vision}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,  # downloads a checkpoint of 4.5 GB
    params:
        settings=vision_model_settings,
        code=code("prepare-vision"),
    message:
        "Prepare the vision model {wildcards.vision}"
    shell:
        """
        vixml prepare-vision --vision {wildcards.vision} --raw "$VIXML_RAW_DIR" --out $(dirname {output}) \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """


rule embed_images:
    """Pool every image into one vector with a frozen vision encoder."""
    input:
        raw=raw_of_vision_model,
        images=IMAGES,
        model=folder_of_vision_model,
    output:
        BANK,
    log:
        f"{LOGS}/embed_images/{{dataset}}/{{vision}}.log",
    benchmark:
        f"{BENCHMARKS}/embed_images/{{dataset}}/{{vision}}.tsv"
    wildcard_constraints:
        dataset=f"(?!(?:{IMPORTED}))[A-Za-z0-9][A-Za-z0-9.\\-]*",
    priority: 10000
    conda:
        ENVIRONMENT
    threads: THREADS.images
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=gpus,
        device=DEVICE,
    params:
        settings=vision_model_settings,
        code=code("embed-images"),
    message:
        "Embed the pictures of {wildcards.dataset} with {wildcards.vision}"
    shell:
        """
        vixml embed-images --vision {wildcards.vision} --store $(dirname {input.images}) --raw "$VIXML_RAW_DIR" \
            --out $(dirname {output}) $(folders --model-dir {input.model}) --threads {threads} --device {resources.device} \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """


rule import_vectors:
    """Convert published image embeddings to the format that pooling writes."""
    input:
        raw=raw_of_vectors,
        corpus=CORPUS,
    output:
        BANK,
    log:
        f"{LOGS}/import_vectors/{{dataset}}/{{vision}}.log",
    benchmark:
        f"{BENCHMARKS}/import_vectors/{{dataset}}/{{vision}}.tsv"
    wildcard_constraints:
        dataset=IMPORTED,
    priority: 10000
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=importing_settings,
        code=code("import-vectors"),
    message:
        "Import published vectors of {wildcards.vision} for {wildcards.dataset}"
    shell:
        """
        vixml import-vectors --dataset {wildcards.dataset} --vision {wildcards.vision} \
            --corpus $(dirname {input.corpus}) --raw "$VIXML_RAW_DIR" --out $(dirname {output}) \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """
