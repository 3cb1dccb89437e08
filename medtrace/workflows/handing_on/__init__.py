"""Model folders: their cards, and fetching them from the Hugging Face Hub."""
