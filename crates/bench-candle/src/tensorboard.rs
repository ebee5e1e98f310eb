//! The course of a training run as a TensorBoard event file.
//!
//! A file is a row of records: the length as u64, its masked checksum, the bytes of one `Event`
//! message, their masked checksum (TensorFlow's `TFRecord`; CRC-32C, little endian). Of the two
//! protocol buffers we write five fields, so they are encoded here by hand:
//! `Event { 1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary summary }`,
//! `Summary { 1: repeated Value { 1: string tag, 2: float simple_value } }`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bench_core::backend::TrainStep;
use fs_err::{self as fs, File};

/// The open event file of a run; each step is in it as soon as it was taken.
pub(crate) struct Events {
    file: File,
}

impl Events {
    /// Begins a file in `folder` with the steps that are already done, in place of the file that an
    /// interrupted run may have left. `wall_time` is in seconds since 1970.
    pub(crate) fn create(folder: &Path, wall_time: f64, steps: &[TrainStep]) -> io::Result<Self> {
        for path in files(folder)? {
            fs::remove_file(path)?;
        }
        let path = folder.join(format!("{PREFIX}{wall_time:.0}.bench"));
        let mut bytes = Vec::new();
        let mut version = event(wall_time, 0);
        field(&mut version, 3, b"brain.Event:2");
        record(&mut bytes, &version);
        for step in steps {
            record(&mut bytes, &message(wall_time, step));
        }
        let mut file = File::create(path)?;
        file.write_all(&bytes)?;
        Ok(Self { file })
    }

    /// Adds a step: loss, learning rate, speed, and the validation loss where there is one.
    pub(crate) fn step(&mut self, wall_time: f64, step: &TrainStep) -> io::Result<()> {
        let mut bytes = Vec::new();
        record(&mut bytes, &message(wall_time, step));
        self.file.write_all(&bytes)
    }

    /// Moves the file of a finished run to another folder.
    pub(crate) fn move_to(from: &Path, folder: &Path) -> io::Result<()> {
        for path in files(from)? {
            let name = path.file_name().unwrap_or_default().to_owned();
            fs::rename(path, folder.join(name))?;
        }
        Ok(())
    }
}

/// The event files in a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// How the names of event files begin, so that TensorBoard finds them.
const PREFIX: &str = "events.out.tfevents.";

fn message(wall_time: f64, step: &TrainStep) -> Vec<u8> {
    let mut summary = Vec::new();
    let mut scalar = |tag: &str, number: f64| {
        let mut value = Vec::new();
        field(&mut value, 1, tag.as_bytes());
        value.push((2 << 3) | 5);
        value.extend((number as f32).to_le_bytes());
        field(&mut summary, 1, &value);
    };
    scalar("train/loss", step.loss);
    scalar("train/learning_rate", step.learning_rate);
    scalar("train/tokens_per_second", step.tokens_per_second);
    if let Some(loss) = step.dev_loss {
        scalar("eval/loss", loss);
    }
    let mut message = event(wall_time, step.step);
    field(&mut message, 5, &summary);
    message
}

/// An `Event` with its time, and its step unless that is 0, which is what an absent one means.
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut message = vec![(1 << 3) | 1];
    message.extend(wall_time.to_le_bytes());
    if step > 0 {
        message.push(2 << 3);
        varint(&mut message, step);
    }
    message
}

/// A field of bytes: its number, its length, its content.
fn field(out: &mut Vec<u8>, number: u8, content: &[u8]) {
    out.push((number << 3) | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

/// Seven bits at a time, the lowest first; the eighth bit says that more follow.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(out: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(message);
    out.extend(masked(message).to_le_bytes());
}

/// A checksum of data that may hold checksums itself is turned and shifted (TFRecord's rule).
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What TensorBoard's own writer makes of the same steps; `tests/tensorboard/make.py` writes it.
    const GOLDEN: &[u8] = include_bytes!("../tests/tensorboard/golden.tfevents");

    #[test]
    fn the_file_is_that_of_tensorboards_own_writer() {
        let step = |step: u64, dev_loss| TrainStep {
            step,
            loss: 3.0 / step as f64,
            dev_loss,
            learning_rate: 1e-3,
            tokens_per_second: 250.5,
            total_steps: 200,
            tokens: 100 * step,
        };
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 1.7e9, &[step(1, None)]).unwrap();
        events.step(1.7e9 + 1.5, &step(150, Some(0.25))).unwrap();
        let name = format!("{PREFIX}1700000000.bench");
        assert_eq!(fs::read(folder.path().join(&name)).unwrap(), GOLDEN);

        // A run that goes on writes one file again, and a finished one takes it along.
        let steps = [step(1, None), step(150, Some(0.25))];
        Events::create(folder.path(), 1.8e9, &steps).unwrap();
        let done = tempfile::tempdir().unwrap();
        Events::move_to(folder.path(), done.path()).unwrap();
        assert_eq!(files(folder.path()).unwrap(), [] as [PathBuf; 0]);
        let moved = files(done.path()).unwrap();
        assert_eq!(moved, [done.path().join(format!("{PREFIX}1800000000.bench"))]);
        assert_eq!(fs::read(&moved[0]).unwrap().len(), GOLDEN.len());
    }
}
