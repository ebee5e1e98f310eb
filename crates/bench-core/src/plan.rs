//! From arms and samples to trials.

use std::num::NonZeroU32;

use crate::dataset::Sample;
use crate::digest;

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

/// Positions of samples in the order in which a run that may stop early asks them: drawn with the
/// seed, each sample's place by its id alone.
pub fn asking_order(ids: &[&str], seed: u64) -> Vec<usize> {
    let mut order: Vec<(String, usize)> = ids
        .iter()
        .enumerate()
        .map(|(at, id)| (digest::of_bytes(format!("ask/{seed}/{id}").as_bytes()), at))
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, at)| at).collect()
}

/// How many samples have been asked at the end of each round, the last one being all of them:
/// each round is half as large again as all before it.
pub fn rounds(first: usize, samples: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut end = first.max(1);
    while end < samples {
        ends.push(end);
        end += (end / 2).max(1);
    }
    ends.push(samples);
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_grow_until_all_is_asked() {
        assert_eq!(rounds(20, 100), [20, 30, 45, 67, 100]);
        assert_eq!(rounds(20, 20), [20]);
        assert_eq!(rounds(1, 3), [1, 2, 3]);
    }

    #[test]
    fn a_sample_keeps_its_turn_when_others_come() {
        let few = asking_order(&["a", "b", "c"], 1);
        let more = asking_order(&["a", "b", "c", "d"], 1);
        let kept: Vec<usize> = more.into_iter().filter(|&at| at < 3).collect();
        assert_eq!(few, kept);
    }

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
