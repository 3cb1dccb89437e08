"""Speed and memory of medtrace's own operations, measured beside their peers."""
