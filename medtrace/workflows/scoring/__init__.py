"""What `evaluate`, `bench` and `reproduce` are made of: rows, trainings, delivered scans."""
