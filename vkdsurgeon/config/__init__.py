"""The recipe: every free choice of visual unlearning, with its measured default, as a pydantic model and as YAML."""
