//! Trains adapters and imports models, on candle.
