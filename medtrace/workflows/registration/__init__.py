"""Parts of `register`: one pair or many cases, with the engine or with trained networks."""
