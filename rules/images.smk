# Pictures to vectors: render_images, embed_images.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus (which pictures); results/raw/{filename} (drawings, vision weights).
# OUTPUTS: results/data/{dataset}/images; results/data/{dataset}/bank/{vision}.


rule render_images:
    """Draw every picture of a corpus into one image store."""
    input:
        raw=ancient(raw_of_dataset),
        corpus=CORPUS,
    output:
        IMAGES,
    log:
        f"{LOGS}/render_images/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/render_images/{{dataset}}.tsv"
    # Before any training that could start meanwhile: the longest trainings wait for pictures.
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
        raw=RAW_DIR,
        config_dir=CONFIG_DIR,
    message:
        "Draw the pictures of {wildcards.dataset}"
    shell:
        """
        vixml render-images --dataset {wildcards.dataset} --corpus $(dirname {input.corpus}) --raw {params.raw} \
            --out $(dirname {output}) --threads {threads} --config-dir {params.config_dir} 2>&1 | tee {log}
        """


rule embed_images:
    """Pool every picture into one vector with a frozen vision encoder."""
    input:
        raw=ancient(raw_of_vision_model),
        images=IMAGES,
    output:
        BANK,
    log:
        f"{LOGS}/embed_images/{{dataset}}/{{vision}}.log",
    benchmark:
        f"{BENCHMARKS}/embed_images/{{dataset}}/{{vision}}.tsv"
    priority: 10000
    conda:
        ENVIRONMENT
    threads: THREADS.images
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=gpus,
        device=DEVICE,
    params:
        settings=vision_model_settings,
        code=code("embed-images"),
        raw=RAW_DIR,
        config_dir=CONFIG_DIR,
    message:
        "Embed the pictures of {wildcards.dataset} with {wildcards.vision}"
    shell:
        """
        vixml embed-images --vision {wildcards.vision} --store $(dirname {input.images}) --raw {params.raw} \
            --out $(dirname {output}) --threads {threads} --device {resources.device} \
            --config-dir {params.config_dir} 2>&1 | tee {log}
        """
