"""Raw files to a verified corpus and its tokens, in the formats of docs/formats.md."""
