//! What a user sees: the `bench` binary, run in a scratch directory.
