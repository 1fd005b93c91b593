"""The networks: weights made ready, packed backbone, early fusion, prototype network, Siamese model."""
