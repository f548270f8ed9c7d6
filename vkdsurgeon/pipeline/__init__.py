"""A whole run: from the request to a verified output directory."""
