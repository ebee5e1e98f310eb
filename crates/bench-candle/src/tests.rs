//! The trainer as a whole, on tiny models with seeded random weights.

mod device;
mod fixture;
pub(crate) mod golden;
mod gradient;
mod job;
mod methods;
mod peft;
mod soft_prompt;
