"""Images: from files to one store, from the store to one float16 matrix, from the matrix to image tokens."""
