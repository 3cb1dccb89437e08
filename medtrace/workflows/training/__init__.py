"""Parts of `train` and `bundle`: the workflow, its handlers, resuming, the page of a run."""
