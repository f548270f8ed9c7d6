"""The study: the method on many small cases, against base, gold, the same attacks, and the default recipe.

    python -m benchmarks.study mint  --kind llava --style robots --forget-set a --seed 0 --out cases/
    python -m benchmarks.study run   --recipes benchmarks/study/recipes/*.yaml --cases cases/ [--quick]
    python -m benchmarks.study table [--markdown]

docs/studies/study.md says what is measured, on which cases, and what came out.
"""
