"""From a trained model to predictions: encode, search, vote."""
