"""Reports: from the JSON results of the commands to one page for the person who signs the release."""
