"""Predict the time, memory and disk that runs take, before anything runs."""
