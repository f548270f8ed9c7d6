"""From the documents that commands print to one page for the person who signs the release."""
