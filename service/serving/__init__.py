"""Many callers and one predictor: admission, lanes, deadlines, counts."""
