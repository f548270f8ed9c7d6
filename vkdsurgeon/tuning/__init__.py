"""The search for a recipe: trials on one case, measured by what no recipe can move."""
