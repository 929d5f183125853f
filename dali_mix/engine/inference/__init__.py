"""Prediction on image files with a trained model."""
