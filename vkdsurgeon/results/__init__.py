"""The documents that the tool writes and reads."""
