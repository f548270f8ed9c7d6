"""From a request to a verified output directory."""
