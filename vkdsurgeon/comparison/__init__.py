"""Several unlearning methods on one case, in one table."""
