"""Images per second of unlearning, end to end."""
