"""The search for a recipe: trials on one case, measured by a yardstick that no recipe can move."""
