"""Studies of gradient estimators and of the tempered posterior; docs/estimators.md has the results."""
