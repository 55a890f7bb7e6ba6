"""Which estimator of the gradient in μ, and what limits the tempered posterior; see docs/estimators.md."""
