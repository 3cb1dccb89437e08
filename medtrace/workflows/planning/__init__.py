"""Plans of trainings: what a data set is, and how a method is trained on it."""
