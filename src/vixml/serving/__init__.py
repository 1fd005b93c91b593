"""A model folder as a web server: an API for programs, and one page for people (docs/serve.md)."""
