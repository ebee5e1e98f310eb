//! The vocabulary of bench: stages, records, plug-in traits. Pure.
