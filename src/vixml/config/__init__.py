"""Configuration: what to run, how, and what is true of the world. The models here are its one source."""
