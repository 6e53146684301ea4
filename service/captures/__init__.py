"""Frames kept for the next training: ``rules`` choose, ``capture`` takes, ``store`` keeps, ``export`` packs."""
