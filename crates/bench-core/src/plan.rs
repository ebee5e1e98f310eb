//! From arms and samples to trials.

use std::num::NonZeroU32;

use crate::dataset::Sample;

/// One question to one arm.
#[derive(Debug)]
pub struct Trial<'a, A> {
    /// Who answers.
    pub arm: &'a A,
    /// What is asked.
    pub sample: &'a Sample,
    /// Counted from 0.
    pub repeat: u32,
}

/// Every trial of one group of arms that share a loaded model, sample by sample, so that an
/// interrupted run has compared the group's arms on the samples it reached.
pub fn trials<'a, A>(
    arms: &'a [A],
    samples: &'a [Sample],
    repeats: NonZeroU32,
) -> impl Iterator<Item = Trial<'a, A>> {
    samples.iter().flat_map(move |sample| {
        (0..repeats.get())
            .flat_map(move |repeat| arms.iter().map(move |arm| Trial { arm, sample, repeat }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_go_sample_by_sample() {
        let sample = |id: &str| Sample { id: id.into(), ..Sample::default() };
        let samples = [sample("s"), sample("t")];
        let order: Vec<String> = trials(&["a", "b"], &samples, NonZeroU32::new(2).unwrap())
            .map(|trial| format!("{}{}{}", trial.sample.id, trial.repeat, trial.arm))
            .collect();
        assert_eq!(order, ["s0a", "s0b", "s1a", "s1b", "t0a", "t0b", "t1a", "t1b"]);
    }
}
