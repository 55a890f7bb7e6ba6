"""Callbacks for other people's trainers: `lightning` and `transformers`, each of which needs the package of its name.

Both trainers take a `bitbayes.JointOptimizer` as it is. The callbacks write the mode where a trainer evaluates and
saves, and re-estimate the BatchNorm statistics for it. Import them from their modules, because `import bitbayes` loads
neither package.
"""
