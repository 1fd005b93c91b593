"""A trained model as one folder, and the tags that it gives to new items."""
