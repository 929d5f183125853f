"""Predictions of a trained model for image files."""
