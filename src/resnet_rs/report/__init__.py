"""What is said about a run: intervals, calibration, figures, and one HTML page. Values, no tensors."""
