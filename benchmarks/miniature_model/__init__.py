"""The built-in miniature from nothing: people drawn, a small model trained on them, and one without some."""
