"""Teachers: what turns audio into the embeddings that a student learns to predict."""
