"""What a trained model is used for: predictions, dense labels, reports, and exported models."""
