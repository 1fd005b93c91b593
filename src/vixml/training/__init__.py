"""Training: batches, clustering, losses, checkpoints, processes, diagnostics and the loop."""
