//! The trainer as a whole, on tiny models with seeded random weights.

mod fixture;
mod golden;
mod gradient;
mod job;
mod methods;
mod soft_prompt;
