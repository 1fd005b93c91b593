"""Models of the configuration, and readers of its files."""
