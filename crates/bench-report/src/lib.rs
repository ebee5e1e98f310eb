//! Tables, charts and report files from records alone.
