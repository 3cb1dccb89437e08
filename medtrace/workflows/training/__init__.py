"""What `train` and `bundle` are made of: the workflow, its handlers, resuming, the page of a run."""
