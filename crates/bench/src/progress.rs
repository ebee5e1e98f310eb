//! Progress on the terminal: bars with rate and time left, or plain lines when nobody watches.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench_core::backend::{Progress, Stage, Task};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bars on a terminal, lines elsewhere.
pub(crate) struct Terminal {
    bars: Option<MultiProgress>,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let watched = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bars =
            watched.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)));
        Self { bars }
    }
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Pull => "getting",
        Stage::Import => "importing",
        Stage::Index => "indexing",
        Stage::Train => "training",
        Stage::Check => "checking",
        Stage::Generate => "answering",
        Stage::Judge => "judging",
    }
}

impl Progress for Terminal {
    fn begin(&self, stage: Stage, what: &str, total: u64) -> Box<dyn Task> {
        let title = format!("{} {what}", word(stage));
        let Some(bars) = &self.bars else {
            anstream::eprintln!("{title}: starts");
            let bytes = stage == Stage::Pull;
            let state = Mutex::new(Lines { last: Instant::now(), done: 0, note: String::new() });
            return Box::new(Plain { title, total, bytes, started: Instant::now(), state });
        };
        let counts = if stage == Stage::Pull {
            "{bytes}/{total_bytes} {bytes_per_sec}"
        } else {
            "{pos}/{len} {per_sec}"
        };
        let template = format!("{{msg:<44!}} {{wide_bar}} {counts} {{eta}} {{prefix}}");
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bars.add(ProgressBar::new(total).with_style(style).with_message(title.clone()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Box::new(Bar { shown: bar, title, bars: bars.clone() })
    }

    fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => {
                bars.println(line).ok();
            }
            None => anstream::eprintln!("{line}"),
        }
    }
}

struct Bar {
    shown: ProgressBar,
    title: String,
    bars: MultiProgress,
}

impl Task for Bar {
    fn advance(&self, done: u64, note: &str) {
        self.shown.set_position(done);
        self.shown.set_prefix(note.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let note = self.shown.prefix();
        let note = if note.is_empty() { String::new() } else { format!(", {note}") };
        let took = self.shown.elapsed().as_secs_f64();
        // Finishing moves the bar to its end, which an interrupted task has not reached.
        let done = self.shown.position();
        self.shown.finish_and_clear();
        self.bars.println(format!("{}: {done} in {took:.1} s{note}", self.title)).ok();
    }
}

struct Plain {
    title: String,
    total: u64,
    bytes: bool,
    started: Instant,
    state: Mutex<Lines>,
}

struct Lines {
    last: Instant,
    done: u64,
    note: String,
}

/// A line every so often is enough in a log.
const EVERY: Duration = Duration::from_secs(15);

impl Plain {
    fn amount(&self, units: u64) -> String {
        if self.bytes { format!("{:.1} MB", units as f64 / 1e6) } else { units.to_string() }
    }

    fn line(&self, done: u64, note: &str) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let left = if done > 0 && self.total > done {
            format!(", {:.0} s left", seconds / done as f64 * (self.total - done) as f64)
        } else {
            String::new()
        };
        let note = if note.is_empty() { String::new() } else { format!(", {note}") };
        format!("{}: {} of {}{left}{note}", self.title, self.amount(done), self.amount(self.total))
    }
}

impl Task for Plain {
    fn advance(&self, done: u64, note: &str) {
        let Ok(mut state) = self.state.lock() else { return };
        state.done = done;
        note.clone_into(&mut state.note);
        if state.last.elapsed() >= EVERY {
            state.last = Instant::now();
            anstream::eprintln!("{}", self.line(done, note));
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let Ok(state) = self.state.lock() else { return };
        let took = self.started.elapsed().as_secs_f64();
        let note = if state.note.is_empty() { String::new() } else { format!(", {}", state.note) };
        anstream::eprintln!("{}: {} in {took:.1} s{note}", self.title, self.amount(state.done));
    }
}

/// Shared with the backends.
pub(crate) fn terminal() -> Arc<Terminal> {
    Arc::new(Terminal::new())
}
