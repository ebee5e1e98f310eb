//! Trains adapters and imports models, on candle.

pub mod import;
