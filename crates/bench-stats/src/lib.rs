//! Intervals, paired tests, power and the decision. Pure.
