"""Verify results, and describe the machine that they are made on."""
