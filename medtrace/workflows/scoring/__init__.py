"""Parts of `evaluate`, `bench` and `reproduce`: rows, trainings, delivered scans."""
