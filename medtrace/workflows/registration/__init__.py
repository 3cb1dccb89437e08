"""What `register` is made of: one pair, many cases, with the engine or with trained networks."""
