# Images to embeddings (render_images, fetch_images, prepare_vision, embed_images, import_vectors), and their export (export_dataset).
#
# REQUIRED INPUTS: results/data/{dataset}/corpus (lists the images); results/raw/{filename} (drawings, vision weights, embeddings);
#   for vision models from the hub, a network or files placed by hand in results/raw/hub/{checkpoint, with -- for /}.
# OUTPUTS: results/data/{dataset}/images; results/vision/{vision}; results/data/{dataset}/embeddings/{vision};
#   results/exported/{dataset} (Parquet, a dataset card, checksums).

# Datasets whose images are fetched; render_images makes those of the others.
FETCHED = either(re.escape(name) for name, entry in WORLD.datasets.items() if entry.fetches)

# Embeddings that are imported: a pattern of datasets, with a look-ahead at the encoder.
IMPORTED = either(
    f"{re.escape(name)}(?=/embeddings/{re.escape(vision)}/)"
    for name, entry in WORLD.datasets.items()
    for vision in entry.published_vectors
    if is_published(name, vision)
)


rule fetch_images:
    """Fetch every image of a corpus from the web into one image store; resume if interrupted."""
    input:
        unpack(reads("fetch-images")),
    output:
        made_by("fetch-images"),
    wildcard_constraints:
        dataset=FETCHED,
    priority: 10000
    threads: THREADS.images
    resources:
        mem_mb=8000,
        runtime=7 * 24 * 60,
    message:
        "Fetch the images of {wildcards.dataset}"
    shell:
        "vixml fetch-images {wildcards.dataset} --threads {threads} 2>&1 | logged {log:q}"


rule render_images:
    """Render every image of a corpus into one image store."""
    input:
        unpack(reads("render-images")),
    output:
        made_by("render-images"),
    wildcard_constraints:
        dataset=f"(?!(?:{FETCHED})/){ID}",
    # Runs before any training that could start at the same time, because the longest trainings wait for images.
    priority: 10000
    threads: THREADS.images
    resources:
        mem_mb=4000,
        runtime=240,
    message:
        "Draw the images of {wildcards.dataset}"
    shell:
        "vixml render-images {wildcards.dataset} --threads {threads} 2>&1 | logged {log:q}"


rule prepare_vision:
    """Make a folder with the vision tower of a model from the hub, checked against its architecture."""
    output:
        made_by("prepare-vision"),
    resources:
        mem_mb=8000,
        runtime=240,  # downloads a checkpoint of 4.5 GB
    message:
        "Prepare the vision model {wildcards.vision}"
    shell:
        "vixml prepare-vision {wildcards.vision} 2>&1 | logged {log:q}"


rule embed_images:
    """Pool every image into one vector with a frozen vision encoder."""
    input:
        unpack(reads("embed-images")),
    output:
        made_by("embed-images"),
    wildcard_constraints:
        dataset=f"(?!(?:{IMPORTED})){ID}",
    priority: 10000
    threads: THREADS.images
    resources:
        **heavy("images"),
    message:
        "Embed the images of {wildcards.dataset} with {wildcards.vision}"
    shell:
        """
        vixml embed-images {wildcards.dataset} {wildcards.vision} \
            --threads {threads} --device {resources.device} 2>&1 | logged {log:q}
        """


rule import_vectors:
    """Convert published image embeddings to the format that pooling writes."""
    input:
        unpack(reads("import-vectors")),
    output:
        made_by("import-vectors"),
    wildcard_constraints:
        dataset=IMPORTED,
    priority: 10000
    resources:
        mem_mb=4000,
        runtime=240,
    message:
        "Import published vectors of {wildcards.vision} for {wildcards.dataset}"
    shell:
        "vixml import-vectors {wildcards.dataset} {wildcards.vision} 2>&1 | logged {log:q}"


rule export_dataset:
    """Write a dataset with its images and vectors as a folder that others can load."""
    input:
        unpack(reads("export-dataset")),
        embeddings=lambda wildcards: made("embed-images", with_images(wildcards.dataset)),
    output:
        made_by("export-dataset"),
    resources:
        mem_mb=4000,
        runtime=720,
        vision=lambda wildcards: " ".join(f"--vision {name}" for name in vision_encoders(wildcards.dataset)),
    message:
        "Export {wildcards.dataset} as a folder for others"
    shell:
        "vixml export-dataset {wildcards.dataset} {resources.vision} 2>&1 | logged {log:q}"
