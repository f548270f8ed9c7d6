"""The search for a recipe on the user's data, with metrics that do not depend on the recipe."""
