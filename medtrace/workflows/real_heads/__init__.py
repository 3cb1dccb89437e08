"""The study of real heads and its page."""
