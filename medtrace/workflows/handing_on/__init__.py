"""Model folders: what their card says, and how they are fetched from the Hugging Face Hub."""
