//! From an experiment to records: preparing arms, answering, scoring, storing.
