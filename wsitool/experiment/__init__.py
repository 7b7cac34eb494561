"""The paper's experiment: arms, label fractions and seeds in one resumable grid with an honest report."""
