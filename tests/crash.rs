//! Nothing that was paid for is lost: kills, interrupts, two runs at once.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Ran, Scratch};

fn slow() -> Scratch {
    let scratch = Scratch::new();
    scratch.edit("otherwise: I do not know", "otherwise: I do not know\n      delay_ms: 20");
    scratch
}

/// The keys of whole lines, and whether a key stands twice.
fn keys(scratch: &Scratch) -> (BTreeSet<String>, bool) {
    let path = scratch.path().join("runs/x/answers.jsonl");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut keys = BTreeSet::new();
    let mut twice = false;
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        twice |= !keys.insert(row["key"].as_str().unwrap().to_owned());
    }
    (keys, twice)
}

#[test]
fn a_run_killed_at_twenty_moments_loses_and_repeats_nothing() {
    let scratch = slow();
    let whole = Scratch::new();
    whole.bench(&["run", "x.yaml"]);
    let mut before = BTreeSet::new();
    // A fixed sequence of uneven waits.
    let mut state = 88_172_645_463_325_252_u64;
    for kill in 0..20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut child = scratch
            .command(&["run", "x.yaml", "-j", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(20 + state % 200));
        child.kill().unwrap();
        child.wait().unwrap();
        let (after, twice) = keys(&scratch);
        assert!(!twice, "kill {kill} left an answer twice");
        assert!(after.is_superset(&before), "kill {kill} lost an answer");
        before = after;
    }
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(!keys(&scratch).1);
    // Latencies differ between two runs; scores do not.
    let table = "reports/x/tables/pairs.csv";
    assert_eq!(scratch.read(table), whole.read(table));
}

#[test]
fn an_interrupt_keeps_the_trials_in_flight_and_says_how_to_go_on() {
    let scratch = slow();
    let child = scratch
        .command(&["run", "x.yaml", "-j", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while keys(&scratch).0.len() < 3 && started.elapsed() < Duration::from_mins(1) {
        sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(ran.err.contains("go on with: bench run x.yaml"), "{}", ran.err);
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(!ran.out.contains("(90 answered now)"), "{}", ran.out);
}

#[test]
fn two_runs_in_one_folder_do_not_meet() {
    let scratch = slow();
    let mut first = scratch
        .command(&["run", "x.yaml", "-j", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while keys(&scratch).0.is_empty() && started.elapsed() < Duration::from_mins(1) {
        sleep(Duration::from_millis(5));
    }
    let second = scratch.bench(&["run", "x.yaml"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.code, Some(3), "{second:#?}");
    assert!(second.err.contains("another run is using"), "{}", second.err);
}
