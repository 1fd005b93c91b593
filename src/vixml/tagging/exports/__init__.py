"""A model folder in the forms that other programs read; each is verified before it is put in place."""
