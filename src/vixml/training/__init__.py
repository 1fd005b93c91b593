"""The recipe: batches, clustering, losses, optimizer, checkpoints and the loop."""
